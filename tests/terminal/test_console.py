"""What is printed of a failure."""

from __future__ import annotations

import io

from rich.console import Console

from lrqk_cli.naming import Surface
from lrqk_cli.terminal.console import print_failure


def test_a_failure_has_the_names_of_where_it_is_read() -> None:
    out = io.StringIO()
    print_failure(Console(file=out), "`top_k` is above `hot`.", "Raise `hot`.")
    assert out.getvalue() == "Error: --top-k is above --hot.\nHint: Raise --hot.\n"
    out = io.StringIO()
    print_failure(Console(file=out), "`top_k` is high.", "Type `prompt`.", Surface({"prompt": ""}))
    assert out.getvalue() == "Error: `top_k` is high.\n"
