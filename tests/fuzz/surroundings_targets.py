"""What surrounds lrqk fails: the disk, the folders of the user, and the clock."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NoReturn

from fuzz.surroundings import COMMANDS, Outcome, Scenario, Surroundings
from fuzz.system_calls import Call, bind_by_permissions


class _Fault:
    """System calls fail from the n-th of some on: that one, or all that follow too.

    Attributes:
        hits: the calls that failed.
    """

    def __init__(self, error: int, applies: Callable[[Call], bool], at: int, *, lasts: bool) -> None:
        self.hits: list[Call] = []
        self._error, self._applies, self._at, self._lasts = error, applies, at, lasts
        self._seen = 0

    def __call__(self, call: Call) -> int:
        if not self._applies(call):
            return 0
        self._seen += 1
        if self._seen != self._at and not (self._lasts and self._seen > self._at):
            return 0
        self.hits.append(call)
        return self._error


_SPACE = ("write", "pwrite64", "writev", "fallocate", "mkdir", "mkdirat", "ftruncate")


def _needs_space(call: Call) -> bool:
    return call.name in _SPACE or (call.may_write and bool(call.flags & os.O_CREAT))


# The name of a fault: its error, the calls that it meets, and whether it goes on once it has begun.
_FAULTS: dict[str, tuple[int, Callable[[Call], bool], bool]] = {
    "full disk": (errno.ENOSPC, _needs_space, True),
    "full for a moment": (errno.ENOSPC, _needs_space, False),
    "quota": (errno.EDQUOT, _needs_space, True),
    "read-only": (errno.EROFS, lambda call: call.may_write and call.name not in ("fsync", "fdatasync"), True),
    "failing writes": (errno.EIO, lambda call: call.may_write, False),
    "failing reads": (errno.EIO, lambda call: not call.may_write, False),
    "failing disk": (errno.EIO, lambda _: True, True),
    "permission": (errno.EACCES, lambda call: call.name not in ("write", "read", "pread64"), False),
    "open files": (errno.EMFILE, lambda call: call.name in ("open", "openat"), False),
    "no locks": (errno.ENOLCK, lambda call: call.name == "flock", True),
}


class FailingDisk(Surroundings):
    """System calls on the files of the user, or of the model, fail."""

    def _spoiled(self, name: str, scenario: Scenario, rng: Random) -> str:
        kind, place, root = rng.choice([*_FAULTS]), rng.choice(COMMANDS[name]), str(self._case.parent)
        error, applies, lasts = _FAULTS[kind]

        def meets(call: Call) -> bool:
            return call.path.startswith(root) and place in call.path and applies(call)

        fault = _Fault(error, meets, int(15 ** rng.random()), lasts=lasts)
        found = self._in_child(scenario, fault)
        can_read = all(call.may_write for call in fault.hits)
        can_unlink = not any("unlink" in call.name for call in fault.hits)
        self._check(name, found, can_read=can_read, can_unlink=can_unlink, rng=rng)
        return f"{kind}, {found.run.answer}" if fault.hits else "no call failed"


def _unknown_user(number: int) -> NoReturn:
    raise KeyError(number)


def _replace_by_file(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.write_text("")


def _replace_by_link(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.symlink_to(place)


class StrangeFolders(Surroundings):
    """There is no home, or folders of lrqk are files, circles of links, read-only or unreadable."""

    def _spoiled(self, name: str, scenario: Scenario, rng: Random) -> str:
        place = self._case / rng.choice(
            ("state", "state/lrqk", "cache", "cache/documents", "config", "tmp", "hf")
        )
        spoils: dict[str, Callable[[], object]] = {
            "a file": lambda: _replace_by_file(place),
            "a link to itself": lambda: _replace_by_link(place),
            "read-only": lambda: place.chmod(0o555),
            "unreadable": lambda: place.chmod(0),
            "not there": lambda: shutil.rmtree(place),
            "no home": lambda: None,
            "home is not there": lambda: None,
        }
        kind = rng.choice([*spoils])
        place.mkdir(parents=True, exist_ok=True)
        spoils[kind]()

        def strange() -> Outcome:
            bind_by_permissions()
            if "home" in kind:
                for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "LRQK_CACHE_DIR", "HF_HOME", "HOME"):
                    os.environ.pop(variable, None)
                # As in a container, whose user no file knows.
                pwd.getpwuid = _unknown_user
            if kind == "home is not there":
                os.environ["HOME"] = "/proc/nonexistent"
            return scenario()

        found = self._in_child(strange)
        if place.exists():
            place.chmod(0o755)
        # What is in a config file that cannot be read might matter.
        may_refuse = kind == "no home" or (
            place.name == "config" and kind in ("unreadable", "a link to itself")
        )
        if name in ("chat", "ask"):
            assert found.run.code == 0 or may_refuse, found.run
        has_lost_sessions = kind == "not there" and "state" in place.parts
        if place.is_dir() and "home" not in kind and not has_lost_sessions:
            self._check(name, found, can_read=not may_refuse, can_unlink=False, rng=rng)
        return f"{kind}, {found.run.answer}"


class JumpingClock(Surroundings):
    """The clock of the machine jumps by hours between any two looks at it, and files are of other times."""

    def _spoiled(self, name: str, scenario: Scenario, rng: Random) -> str:
        for path in self._case.rglob("*"):
            if rng.random() < 0.3:
                moment = rng.choice((0, 1, 2e9, 4e9, 2**33))
                os.utime(path, (moment, moment))

        def jumps() -> Outcome:
            time.time = _jumping(time.time, rng, (-1e5, -3600.0, 3600.0, 1e5, 1e9))
            # These never go back, but stand still or go on while the machine sleeps.
            time.monotonic = time.perf_counter = _jumping(time.monotonic, rng, (0.5, 3600.0, 1e5))
            return scenario()

        found = self._in_child(jumps)
        assert found.run.code == 0 or name in ("sessions", "cache"), found.run
        self._check(name, found, can_read=True, can_unlink=True, rng=rng)
        return f"{name}, {found.run.answer}"


def _jumping(clock: Callable[[], float], rng: Random, jumps: Sequence[float]) -> Callable[[], float]:
    """Return a clock that jumps at one in ten looks at it."""
    gone = 0.0

    def look() -> float:
        nonlocal gone
        gone += rng.choice(jumps) if rng.random() < 0.1 else 0.0
        return clock() + gone

    return look
