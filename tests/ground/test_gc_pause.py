from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# In processes of their own: nothing of this one is to be kept from garbage collection.
PRELUDE = "import gc, sys\nfrom pipeline.ground.gc_pause import paused_gc\n"


def run(code: str, folder: Path) -> list[str]:
    """The lines that `code` prints, with `folder` among the places of modules."""
    code = f"{PRELUDE}sys.path.insert(0, {str(folder)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lasting.py").write_text("table = [[number] for number in range(1000)]")
    (tmp_path / "broken.py").write_text("1 / 0")
    return tmp_path


def test_nothing_is_collected_while_modules_are_imported_and_what_they_made_is_left_out_later(folder):
    code = """
with paused_gc():
    print(gc.isenabled(), gc.get_freeze_count())
    import lasting
print(gc.isenabled(), gc.get_freeze_count() > 1000)
"""
    assert run(code, folder) == ["False 0", "True True"]


def test_where_nothing_was_imported_nothing_is_left_out(folder):
    code = """
with paused_gc():
    print(gc.isenabled())
print(gc.isenabled(), gc.get_freeze_count())
"""
    assert run(code, folder) == ["False", "True 0"]


def test_collection_goes_on_after_an_error_and_stays_off_where_it_was(folder):
    code = """
try:
    with paused_gc():
        import broken
except ZeroDivisionError:
    print(gc.isenabled())
gc.disable()
with paused_gc():
    import lasting
print(gc.isenabled())
"""
    assert run(code, folder) == ["True", "False"]


def test_what_was_left_out_is_collected_at_the_end_of_the_process(folder):
    (folder / "circular.py").write_text("""
class Circle:
    def __init__(self): self.me = self
    def __del__(self): print("collected", flush=True)
Circle()
""")
    code = """
with paused_gc():
    import circular
gc.collect()
print("the end", flush=True)
"""
    assert run(code, folder) == ["the end", "collected"]
