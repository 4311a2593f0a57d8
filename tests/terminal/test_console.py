"""Settings have one name in Python and another on the command line."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lrqk_cli.terminal.console import print_failure, with_flags


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Raise `context`.", "Raise --ctx."),
        ("`top_k` is above `hot`.", "--top-k is above --hot."),
        ("There is no `als.init` 'x'.", "There is no --als-init 'x'."),
        ("It says `A b` and `1`.", "It says `A b` and `1`."),
        ("There is no `model_type` in it.", "There is no `model_type` in it."),
    ],
)
def test_a_setting_in_backticks_is_shown_as_its_option(said, shown):
    assert with_flags(said) == shown
    out = io.StringIO()
    print_failure(Console(file=out), said, said)
    assert out.getvalue() == f"Error: {shown}\nHint: {shown}\n"
