"""Takes away from this process what Windows lacks; for a fork alone, since nothing gives it back."""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import socket
import sys
from contextlib import suppress
from types import ModuleType, SimpleNamespace

import psutil

import lrqk_cli

_MODULES = frozenset({"fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"})
_NAMES: dict[ModuleType, tuple[str, ...]] = {
    os: (
        *("O_NOFOLLOW", "chown", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid"),
        *("getpgid", "getpgrp", "getuid", "killpg", "mkfifo", "nice", "openpty", "posix_fallocate"),
        *("posix_spawn", "pread", "pwrite", "sched_getaffinity", "setsid", "sysconf", "tcgetpgrp", "uname"),
    ),
    signal: (
        *("SIGALRM", "SIGHUP", "SIGPIPE", "SIGTSTP", "SIGUSR1", "SIGXFSZ"),
        *("alarm", "pthread_kill", "pthread_sigmask", "setitimer", "siginterrupt"),
    ),
    socket: ("AF_UNIX",),
}


class _Missing:
    """Finds none of the modules."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in _MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def import_all() -> int:
    """Import every module of lrqk whose libraries are here; return how many there are."""
    found = [module.name for module in pkgutil.walk_packages(lrqk_cli.__path__, "lrqk_cli.")]
    for name in found:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A library of an extra, or one for a GPU.
            if error.name is None or error.name in _MODULES or error.name.startswith("lrqk_cli"):
                raise
    return len(found)


def take_away() -> None:
    """Take away what Windows lacks, and all of lrqk, which is imported anew when it is needed.

    Libraries that are imported stay: they know Windows themselves. Paths and processes remain those of this
    system, so SIGKILL stays, which ``subprocess`` needs.
    """
    for name in [name for name in sys.modules if name in _MODULES or name.startswith("lrqk_cli.")]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Missing())  # type: ignore[arg-type]
    for owner, names in _NAMES.items():
        for name in names:
            with suppress(AttributeError):
                delattr(owner, name)
    memory_info = psutil.Process.memory_info
    psutil.Process.memory_info = lambda process: SimpleNamespace(  # type: ignore[method-assign]
        **memory_info(process)._asdict(), peak_wset=memory_info(process).rss
    )
    sys.platform = "win32"
