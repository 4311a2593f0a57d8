"""``python -m lrqk_cli`` and the script ``lrqk``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; see ``lrqk_cli.cli.app.main``.

    Args:
        arguments: the words after ``lrqk``; those of ``sys.argv`` if None.
    """
    try:
        # The import takes a moment, in which the user may press Ctrl-C.
        from lrqk_cli.cli import app

        app.main(arguments)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    finally:
        # Another Ctrl-C has nothing left to stop, and would show a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
