"""The end of a command: one sentence for a mistake or an error of the disk, and the exit code of the contract."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from pipeline.ground.errors import EXIT_FAILED, EXIT_USER_ERROR, StartAbandoned, StartFailed, UserError
from pipeline.ground.printing import print_line
from pipeline.store.file import explain


def answered(command: Callable[[], int], prefix: str = "") -> int:
    """Run a command and return its exit code, or that of the error that it ended with, which is printed in a sentence.

    `prefix` begins the sentence. An error that is neither the user's, the disk's nor that of a start keeps its
    traceback. Ctrl-C and a closed pipe end silently.
    """
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UserError as error:
        print_line(f"{prefix}{error}", sys.stderr)
        return EXIT_USER_ERROR
    except (StartAbandoned, StartFailed) as error:
        print_line(f"{prefix}{error}", sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED
    except BrokenPipeError:  # `... | head` has closed the pipe; Python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        if (sentence := explain(error)) is None:
            raise
        print_line(f"{prefix}{sentence}", sys.stderr)
        return EXIT_USER_ERROR
