"""A child process of which chosen system calls fail, as a broken disk would have them fail.

The kernel asks this process before each call (seccomp's user notification), so calls of SQLite and of other
libraries, and those of processes that the child starts, fail as well as Python's. Linux on x86-64 only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import psutil

import fuzz.torch_threads  # noqa: F401

is_supported = sys.platform == "linux" and platform.machine() == "x86_64"

# From linux/seccomp.h, linux/filter.h and linux/prctl.h.
_SYS_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, _NO_NEW_PRIVS = 317, 1, 8, 38
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101
_CONTINUE = 1
# From linux/capability.h: to override permissions, and to override those to read and to search.
_CAPABILITY_VERSION, _DROP_FROM_BOUND, _OVERRIDE = 0x20080522, 24, (1, 2)
_NOTICE, _REPLY = struct.Struct("<QIIiIQ6Q"), struct.Struct("<QqiI")
_LONGEST_PATH = 4096
_NO_FOLDER = (1 << 32) - 100  # AT_FDCWD


class _Kind(NamedTuple):
    """A system call: its number, and which of its arguments say what it works on.

    Attributes:
        descriptor: the argument with an open file, or with the folder that ``path`` starts from.
        path: the argument with the address of a path; flags: of those with which a file is opened.
    """

    number: int
    descriptor: int | None = None
    path: int | None = None
    flags: int | None = None


_KINDS = {
    "open": _Kind(2, None, 0, 1),
    "openat": _Kind(257, 0, 1, 2),
    "read": _Kind(0, 0),
    "pread64": _Kind(17, 0),
    "write": _Kind(1, 0),
    "pwrite64": _Kind(18, 0),
    "writev": _Kind(20, 0),
    "fsync": _Kind(74, 0),
    "fdatasync": _Kind(75, 0),
    "ftruncate": _Kind(77, 0),
    "fallocate": _Kind(285, 0),
    "getdents64": _Kind(217, 0),
    "rename": _Kind(82, None, 1),
    "renameat": _Kind(264, 2, 3),
    "renameat2": _Kind(316, 2, 3),
    "mkdir": _Kind(83, None, 0),
    "mkdirat": _Kind(258, 0, 1),
    "unlink": _Kind(87, None, 0),
    "unlinkat": _Kind(263, 0, 1),
    "rmdir": _Kind(84, None, 0),
    "chmod": _Kind(90, None, 0),
    "fchmod": _Kind(91, 0),
    "fchmodat": _Kind(268, 0, 1),
    "utimensat": _Kind(280, 0, 1),
    "flock": _Kind(73, 0),
}
_NAMES = {kind.number: name for name, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that is about to happen.

    Attributes:
        name: of the call; path: what it works on, as an absolute path; flags: with which a file is opened.
    """

    name: str
    path: str
    flags: int

    @property
    def may_write(self) -> bool:
        """Whether it would change something on the disk."""
        if self.name in ("open", "openat"):
            return bool(self.flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        return self.name not in ("read", "pread64", "getdents64", "flock")


def run_child(do: Callable[[], bytes], fails: Callable[[Call], int] | None = None) -> bytes:
    """Call ``do`` in a fork of this process and return what it returns.

    Args:
        fails: returns the number of the error with which a call fails, or 0 to let it happen; None asks for
            no call.

    Raises:
        ChildProcessError: the child crashed, or ``do`` raised an exception.
    """
    result, own_result = os.pipe()
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        _run(do, own_result, theirs, with_filter=fails is not None)
    os.close(own_result)
    theirs.close()
    try:
        with ours, os.fdopen(result, "rb") as results:
            if fails is not None:
                _supervise(ours, fails)
            received = results.read()
        _, status = os.waitpid(child, 0)
        child = 0
        if code := os.waitstatus_to_exitcode(status):
            raise ChildProcessError(f"It ended with {code}:\n{received.decode('utf-8', 'replace').strip()}")
        return received
    finally:
        if child:
            _kill(child)


def bind_by_permissions() -> None:
    """Let the permissions of files bind this process and what it starts, although its user be root."""
    libc = ctypes.CDLL(None, use_errno=True)
    head, state = struct.pack("Ii", _CAPABILITY_VERSION, 0), ctypes.create_string_buffer(24)
    if os.geteuid() or libc.capget(head, state):
        return
    for capability in _OVERRIDE:
        libc.prctl(_DROP_FROM_BOUND, capability, 0, 0, 0)
    low = ~sum(1 << capability for capability in _OVERRIDE)
    sets = [value & low if place < 3 else value for place, value in enumerate(struct.unpack("6I", state.raw))]
    libc.capset(head, struct.pack("6I", *sets))


def _run(do: Callable[[], bytes], result: int, channel: socket.socket, *, with_filter: bool) -> NoReturn:
    import traceback

    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if with_filter:
            listener = _install()
            socket.send_fds(channel, [b"x"], [listener])
            os.close(listener)
        channel.close()
        answer = do()
        code = 0
    except BaseException:
        answer = traceback.format_exc().encode()
    finally:
        with os.fdopen(result, "wb") as out:
            out.write(answer)
        os._exit(code)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def _install() -> int:
    """Let this process ask before each of the calls; return the descriptor at which it asks."""
    numbers = [kind.number for kind in _KINDS.values()]
    code = [_Instruction(_LOAD, 0, 0, 0)]
    code += [
        _Instruction(_JUMP_IF_EQUAL, len(numbers) - place, 0, each) for place, each in enumerate(numbers)
    ]
    code += [_Instruction(_RETURN, 0, 0, _ALLOW), _Instruction(_RETURN, 0, 0, _ASK)]
    program = _Program(len(code), (_Instruction * len(code))(*code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    listener = libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(listener)


def _supervise(channel: socket.socket, fails: Callable[[Call], int]) -> None:
    """Answer the child's questions until it has ended, and all that it has started."""
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not descriptors:
        return  # it has failed, and says why
    (listener,) = descriptors
    try:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            if poll.poll()[0][1] & select.POLLHUP:
                return
            notice = bytearray(_NOTICE.size)
            # Whoever asked may have been killed since.
            with suppress(FileNotFoundError):
                fcntl.ioctl(listener, _RECEIVE, notice)
                asked, process, _, number, _, _, *arguments = _NOTICE.unpack(notice)
                error = fails(_call(process, number, arguments))
                fcntl.ioctl(listener, _ANSWER, _REPLY.pack(asked, 0, -error, 0 if error else _CONTINUE))
    finally:
        os.close(listener)


def _call(process: int, number: int, arguments: list[int]) -> Call:
    name = _NAMES[number]
    kind = _KINDS[name]
    folder, path = "", ""
    with suppress(OSError):
        if (
            kind.path is None
            or kind.descriptor is None
            or arguments[kind.descriptor] % (1 << 32) == _NO_FOLDER
        ):
            folder = f"/proc/{process}/cwd"
        if (kind.descriptor is not None and not folder) or kind.path is None:
            assert kind.descriptor is not None
            folder = f"/proc/{process}/fd/{arguments[kind.descriptor] % (1 << 32)}"
        folder = str(Path(folder).readlink())
        if kind.path is not None:
            path = _string(process, arguments[kind.path])
    return Call(name, str(Path(folder, path)), arguments[kind.flags] if kind.flags is not None else 0)


def _string(process: int, address: int) -> str:
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        # Not beyond the end of a page, behind which there may be nothing.
        found = memory.read(_LONGEST_PATH - address % _LONGEST_PATH)
        if b"\0" not in found:
            found += memory.read(_LONGEST_PATH)
    return os.fsdecode(found.partition(b"\0")[0])


def _kill(child: int) -> None:
    with suppress(psutil.Error):
        for process in [*psutil.Process(child).children(recursive=True), psutil.Process(child)]:
            process.kill()
    with suppress(ChildProcessError):
        os.waitpid(child, 0)
