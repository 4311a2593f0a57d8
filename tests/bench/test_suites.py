"""What every suite says of itself, and what it refuses before a model is loaded."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import get_args

import pytest

from lrqk_cli.bench.modes import named_modes
from lrqk_cli.bench.suite import SuiteOptions
from lrqk_cli.bench.suites import SUITES, refuse_idle
from lrqk_cli.cli.bench import bench
from lrqk_cli.cli.bench_options import SuiteName
from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import UsageError


def test_the_command_line_knows_every_suite() -> None:
    assert set(get_args(SuiteName)) == set(SUITES)


@pytest.mark.parametrize("name", SUITES)
def test_modes_have_settings_and_options_are_those_of_the_command(name: str) -> None:
    suite = SUITES[name]
    assert set(suite.default_modes) <= set(suite.known_modes)
    assert set(named_modes(suite.known_modes, LrqkConfig(), 100)) == set(suite.known_modes)
    assert suite.options <= set(signature(bench).parameters)


@pytest.mark.parametrize("name", SUITES)
def test_modes_and_tasks_have_defaults(name: str, tmp_path: Path) -> None:
    tales = tmp_path / "tales.jsonl"
    tales.write_text(
        '{"input": "A", "instructions": ["B?"], "outputs": ["C"], "evaluation": "f1"}', encoding="utf-8"
    )
    qa_data = (tales,) if name == "qa" else ()
    asked = SUITES[name](SuiteOptions(contexts=(100,), qa_data=qa_data)).asked
    assert asked.modes == SUITES[name].default_modes
    assert len(asked.tasks) == {"speed": 0, "fidelity": 1, "ruler": 13, "qa": 0, "lookup": 0}[name]


def test_an_option_of_other_suites_is_refused_with_their_names() -> None:
    given = {"ctx", "samples", "plot"}
    with pytest.raises(UsageError, match="--samples has no meaning for --suite speed") as refusal:
        refuse_idle("speed", given)
    assert "--suite fidelity or ruler or qa" in refusal.value.hint
    refuse_idle("ruler", given)
