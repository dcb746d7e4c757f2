from __future__ import annotations

import pytest

from pipeline.bench.peer import import_peer
from pipeline.ground.errors import UserError


def test_a_peer_that_is_not_installed_is_named_with_what_to_do():
    with pytest.raises(UserError, match="compares with nobody, which is not installed: pip install nobody"):
        import_peer("no_such_module_here.data", "nobody")


def test_a_peer_that_is_installed_is_imported():
    assert import_peer("json.decoder", "json").JSONDecoder
