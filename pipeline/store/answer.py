"""The end of a command: one sentence for a mistake or an error of the disk, and the exit code of the contract."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, StartAbandoned, StartFailed, UserError
from pipeline.ground.printing import print_line
from pipeline.store.file import explain


def answered(command: Callable[[], int], prefix: str = "") -> int:
    """Run a command and return its exit code, or that of the error that it ended with, which is printed in a sentence.

    `prefix` begins the sentence. An error that is neither the user's, the disk's nor that of a start keeps its
    traceback. Ctrl-C ends silently, and so does a pipe that its reader has closed: that is no failure of the command.
    """
    code = _ended(command, prefix)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # Python would complain when it closes it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _ended(command: Callable[[], int], prefix: str) -> int:
    try:
        return command()
    except UserError as error:
        print_line(f"{prefix}{error}", sys.stderr)
        return EXIT_USER_ERROR
    except (StartAbandoned, StartFailed) as error:
        print_line(f"{prefix}{error}", sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED
    except BrokenPipeError:
        return EXIT_DONE
    except OSError as error:
        if (sentence := explain(error)) is None:
            raise
        print_line(f"{prefix}{sentence}", sys.stderr)
        return EXIT_USER_ERROR
