"""How every command ends: a sentence and an exit code of the contract, or a traceback."""

import errno
import os
import subprocess
import sys

import pytest

from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, UserError
from pipeline.store.answer import answered


def _raise(error: BaseException) -> int:
    raise error


def test_a_command_without_an_error_keeps_its_exit_code() -> None:
    assert [answered(lambda code=code: code) for code in (EXIT_DONE, EXIT_FAILED)] == [EXIT_DONE, EXIT_FAILED]  # type: ignore[misc]


def test_a_mistake_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert answered(lambda: _raise(UserError("run is a file"))) == EXIT_USER_ERROR
    assert capsys.readouterr().err == "run is a file\n"


def test_a_full_disk_is_explained_with_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/run/model.pt")
    assert answered(lambda: _raise(full)) == EXIT_USER_ERROR
    printed = capsys.readouterr().err
    assert "/data/run/model.pt" in printed
    assert "Traceback" not in printed


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="by hand"):
        answered(lambda: _raise(ZeroDivisionError("by hand")))


def test_ctrl_c_ends_silently(capsys: pytest.CaptureFixture[str]) -> None:
    assert answered(lambda: _raise(KeyboardInterrupt())) == EXIT_FAILED
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("flush", [True, False])
def test_a_closed_pipe_ends_silently(flush: bool) -> None:
    code = (
        "import sys; from pipeline.store.answer import answered\n"
        f"sys.exit(answered(lambda: print('line', flush={flush}) or 0))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run([sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (EXIT_DONE, b"")
