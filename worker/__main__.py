"""`align-worker`, or `python -m worker`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from worker.commands.cli import parse
from worker.errors import WorkerError
from worker.printable import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a `WorkerError` becomes one line and its exit code, and so does a file that cannot be used."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show a character is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = parse(argv)
        return int(arguments.function(arguments))
    except WorkerError as error:
        print(f"align-worker: {error.one_line()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `align-worker dlq list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"align-worker: {printable(str(error.filename))}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
