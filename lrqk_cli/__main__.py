"""``python -m lrqk_cli`` and the script ``lrqk``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; see ``lrqk_cli.cli.app.main``.

    Args:
        arguments: what stands after ``lrqk``; ``sys.argv`` if None.
    """
    try:
        # Importing takes a moment, in which Ctrl-C may come.
        from lrqk_cli.cli import app
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    app.main(arguments)


if __name__ == "__main__":
    main()
