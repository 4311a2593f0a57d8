"""``python -m lrqk_cli`` and the script ``lrqk``."""

from __future__ import annotations

from lrqk_cli.cli.app import main

if __name__ == "__main__":
    main()
