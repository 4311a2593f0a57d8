"""A few cases of each target of ``python -m fuzz``; docs/reliability.md says what came of thousands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="needs a Unix system")
pytest.importorskip("markitdown", reason="the extra office is not installed")
pytest.importorskip("pypdfium2", reason="the extra pages is not installed")

from fuzz import system_calls
from fuzz.campaign import campaign
from fuzz.targets import TARGETS

CASES = {
    **{"pdf": 30, "drawing": 10, "office": 12, "text": 20},
    **{"gguf": 3, "folder": 3, "cache": 4, "sessions": 4, "saved": 30},
    **{"values": 300, "lines": 8, "config": 10, "network": 8},
    **{"numbers": 60, "degenerate": 1},
    **({"disk": 2, "folders": 2, "clock": 2} if system_calls.is_supported else {}),
}
# Of each kind of allocation.
MEMORY = range(300, 7200, 1150)


@pytest.mark.parametrize(("name", "cases"), CASES.items())
def test_every_case_is_answered(name: str, cases: int) -> None:
    # Case 0 of documents would go through the reader process and OCR.
    tally = campaign(TARGETS[name](), name, range(1, cases + 1), seed=0)
    assert tally.failures == []
    assert tally.cases == sum(tally.answers.values()) == cases


@pytest.mark.skipif(sys.platform != "linux", reason="sessions of processes as of Linux")
@pytest.mark.parametrize("name", ["interrupts", "endings"])
def test_commands_are_in_order_after_signals(name: str) -> None:
    """In a process of its own, whose forks may compute: this one has threads of torch."""
    command = [sys.executable, "-m", "fuzz", name, "--cases", "3", "--seed", "1"]
    places = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=Path(__file__).parent, env={**os.environ, **places}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_conversation_goes_on_wherever_memory_runs_out() -> None:
    tally = campaign(TARGETS["memory"](), "memory", MEMORY, seed=0)
    assert tally.failures == []
    assert tally.cases == len(MEMORY)
