"""Where a user's files are, and what is said where there is no home."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrqk_cli.errors import UsageError
from lrqk_cli.user_folders import expanded, user_folder


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that no file knows, as in a container."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pytest.importorskip("pwd"), "getpwuid", unknown)


def test_folders_follow_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert user_folder("state") == tmp_path / "lrqk"


@pytest.mark.usefixtures("homeless")
def test_without_a_home_nothing_is_kept_in_the_working_folder() -> None:
    for kind in ("cache", "config", "state"):
        with pytest.raises(UsageError, match="no home folder") as raised:
            user_folder(kind)
        assert "HOME" in raised.value.hint
    with pytest.raises(UsageError, match="no home folder ~"):
        expanded(Path("~/notes"))
    assert expanded(Path("notes")) == Path("notes")
