"""What is said to torch's allocator, and what it is expected to waste."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lrqk_cli.memory import allocator

VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
OURS = "expandable_segments:True"


@pytest.mark.parametrize(
    ("platform", "before", "after", "expands"),
    [
        ("linux", None, OURS, True),
        ("linux", "max_split_size_mb:64", "max_split_size_mb:64", False),
        ("linux", f"{OURS},max_split_size_mb:64", f"{OURS},max_split_size_mb:64", True),
        ("linux", "expandable_segments:False", "expandable_segments:False", False),
        ("win32", None, None, False),
    ],
)
def test_segments_expand_on_linux_unless_somebody_has_decided(
    monkeypatch: pytest.MonkeyPatch, platform: str, before: str | None, after: str | None, expands: bool
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv(VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VARIABLE, before)
    allocator.expand_segments()
    assert os.environ.get(VARIABLE) == after
    assert allocator.expands_segments() is expands


def test_segments_that_expand_waste_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(VARIABLE, raising=False)
    expanding = allocator.unusable_bytes(200 << 20, 32)
    monkeypatch.setenv(VARIABLE, "expandable_segments:False")
    assert 108 << 20 < expanding < 344 << 20 < allocator.unusable_bytes(200 << 20, 32)


@pytest.mark.skipif(sys.platform != "linux", reason="torch has expandable segments on Linux only")
def test_the_command_says_so_before_torch_is_imported() -> None:
    script = (
        "import os, sys\n"
        "from lrqk_cli.__main__ import main\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        f"            print('found', os.environ.get({VARIABLE!r}), file=sys.stderr)\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "main(['info'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert f"found {OURS}" in result.stderr, result.stderr
