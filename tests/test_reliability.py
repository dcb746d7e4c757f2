from __future__ import annotations

from tests.reliability import PAGE, fault_tests, page


def test_the_page_has_every_test_of_a_fault():
    assert len(list(fault_tests())) > 100
    assert PAGE.read_text() == page(), "write it anew: python -m tests.reliability > docs/reliability.md"
