from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import FAMILIES, tiny_model

from lrqk_cli import upstream

pytestmark = pytest.mark.short

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    upstream.transformers_release.cache_clear()
    yield monkeypatch
    upstream.transformers_release.cache_clear()


@pytest.mark.parametrize("family", FAMILIES)
def test_models_take_the_cache_by_the_name_that_is_given(family: str) -> None:
    assert upstream.cache_argument() in inspect.signature(tiny_model(family).forward).parameters


@pytest.mark.parametrize(
    ("version", "name"),
    [("5.23.1", "past_key_values"), ("5.24.0", "cache"), ("5.25rc1", "cache"), ("6.0.0.dev0", "cache")],
)
def test_name_of_the_cache_by_release(installed: pytest.MonkeyPatch, version: str, name: str) -> None:
    installed.setattr(upstream, "version", lambda _: version)
    assert upstream.cache_argument() == name


@pytest.mark.parametrize("version", ["5.22.2", "4.57.6", "5.25.0", "6.0.0"])
def test_an_untested_release_is_named_with_those_that_are_tested(
    installed: pytest.MonkeyPatch, version: str
) -> None:
    installed.setattr(upstream, "version", lambda _: version)
    warning = upstream.untested_warning()
    assert warning is not None
    assert version in warning
    assert "5.23 to 5.24" in warning
    assert "\n" not in warning


@pytest.mark.parametrize("version", ["5.23.0", "5.23.9", "5.24.0", "5.24.3"])
def test_a_tested_release_gives_no_warning(installed: pytest.MonkeyPatch, version: str) -> None:
    installed.setattr(upstream, "version", lambda _: version)
    assert upstream.untested_warning() is None


def test_the_tested_range_is_what_is_installed() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ((low, high),) = re.findall(r'"transformers>=5\.(\d+),<5\.(\d+)"', project)
    assert ((5, int(low)), (5, int(high) - 1)) == (upstream.OLDEST_TESTED, upstream.NEWEST_TESTED)
