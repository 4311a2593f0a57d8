"""``lrqk`` as a program of its own, forked from a process that has imported what it imports; Unix only."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from tempfile import TemporaryFile
from typing import Any, NoReturn

import psutil

from lrqk_cli.__main__ import main

# Of Python, of libraries, and of lrqk where it did not expect something.
NEVER = re.compile(r"Traceback|Unexpected|Exception|Warning: \w+Warning|Errno|Error in|never awaited|Fatal")
_SENT = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP}
# Files from here on are not the program's.
_MOST_FILES = 4096
WAITING_S = 20.0
# Children see the end of their input, and end.
_CHILDREN_S = 15.0


class Program:
    """A run of ``lrqk`` that leads a session of processes.

    Args:
        arguments: the words after ``lrqk``.
        start: called in the new process; it connects the standard streams and may set variables.
        own_group: the program is a job of a shell, so that it can be stopped and goes on.
    """

    def __init__(self, arguments: Sequence[object], start: Callable[[], None], *, own_group: bool) -> None:
        self._own_group = own_group
        # Until the program begins no signal reaches it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SENT)
        self._leader = os.fork()
        if not self._leader:
            _begin(start, [str(word) for word in arguments], own_group)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SENT)
        self._code: int | None = None

    def kill(self, number: int) -> None:
        """Send a signal to the program, but not to its children."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)

    @property
    def process(self) -> int:
        """The program's process."""
        if not self._own_group or self.code is not None:
            return self._leader
        children = psutil.Process(self._leader).children()
        return children[0].pid if children else self._leader

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None:
            ended, status = os.waitpid(self._leader, os.WNOHANG)
            if ended:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def pump(self, seconds: float) -> None:
        """Take in what it writes for so long."""
        time.sleep(seconds)

    def until(self, is_so: Callable[[], bool], seconds: float = WAITING_S) -> bool:
        """Take in what it writes until something is so, it ends, or time is over; return whether it is so."""
        deadline = time.monotonic() + seconds
        while not is_so():
            if self.code is not None or time.monotonic() > deadline:
                self.pump(0)
                return is_so()
            self.pump(0.02)
        return True

    def end(self, seconds: float = WAITING_S) -> int:
        """Wait for the end; return the exit code.

        Raises:
            AssertionError: it does not end, or leaves processes behind.
        """
        deadline = time.monotonic() + seconds
        while self.code is None:
            self.check(time.monotonic() < deadline, "It does not end")
            self.pump(0.02)
        self.pump(0)
        deadline = time.monotonic() + _CHILDREN_S
        while left := self.left_behind():
            self.check(time.monotonic() < deadline, f"It leaves processes: {left}")
            time.sleep(0.02)
        assert self._code is not None
        return self._code

    def check(self, is_so: bool, otherwise: str) -> None:
        """Fail with the state of the program."""
        assert is_so, f"{otherwise}: {self._state()}"

    def left_behind(self) -> list[str]:
        """The command lines of the processes that live in its session."""
        found = []
        for process in self._session():
            with contextlib.suppress(psutil.Error):
                if process.pid != self._leader:
                    found.append(" ".join(process.cmdline())[:200])
        return found

    def close(self) -> None:
        """End it and all of its session, however it is."""
        for process in self._session():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self._code is None:
            os.waitpid(self._leader, 0)
            self._code = -signal.SIGKILL

    def _session(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if os.getsid(process.pid) == self._leader:
                    yield process

    def _state(self) -> str:
        with contextlib.suppress(psutil.Error, OSError):
            return f"{psutil.Process(self.process).status()} {self.left_behind()}"
        return "gone"


class PipedProgram(Program):
    """A program without a terminal, whose output goes to files.

    Args:
        connect: called in the new process when its streams are connected; it may connect them otherwise.
    """

    def __init__(self, arguments: Sequence[object], connect: Callable[[], None] = lambda: None) -> None:
        self._files = [TemporaryFile() for _ in range(2)]  # noqa: SIM115 - see close

        def start() -> None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, file in enumerate(self._files, 1):
                os.dup2(file.fileno(), number)
            connect()

        super().__init__(arguments, start, own_group=False)

    @property
    def out(self) -> str:
        """What it has written to stdout."""
        return self._written(0)

    @property
    def err(self) -> str:
        """What it has written to stderr."""
        return self._written(1)

    def _written(self, number: int) -> str:
        # The file's position is the program's too.
        descriptor = self._files[number].fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def close(self) -> None:
        """See ``Program``."""
        super().close()
        for file in self._files:
            file.close()


def run_piped(*arguments: object) -> str:
    """Run a program, which must succeed; return its output."""
    program = PipedProgram(arguments)
    try:
        code = program.end()
        assert code == 0, f"{code}: {program.err}"
        return program.out
    finally:
        program.close()


def import_as(*arguments: object) -> None:
    """Import what a run imports, so that the programs that are forked later need not.

    This process must not compute itself: a fork has none of the threads that torch counts on.
    """
    with TemporaryFile() as file:

        def connect() -> None:
            _at_end.append(lambda: os.pwrite(copy, "\n".join(sys.modules).encode(), 0))

        copy = os.dup2(file.fileno(), _MOST_FILES + 1)
        program = PipedProgram(arguments, connect)
        os.close(copy)
        try:
            assert program.end() == 0, program.err
        finally:
            program.close()
        names = file.read().decode().split("\n")
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


_at_end: list[Callable[[], object]] = []


def _begin(start: Callable[[], None], arguments: list[str], own_group: bool) -> NoReturn:
    """Become the program, or the shell of which it is a job."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python has it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if own_group:
            start()
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            job = os.fork()
            if job:
                _lead(job)
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        else:
            os.setsid()
            start()
        os.closerange(3, _MOST_FILES)
        sys.stdin, sys.stdout, sys.stderr = (_stream(number) for number in range(3))
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    except BaseException:
        os._exit(99)
    _run(arguments)


def _lead(job: int) -> NoReturn:
    """Be the shell of a job: end as it ends."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SENT)
    os.closerange(3, _MOST_FILES)
    while True:
        with contextlib.suppress(InterruptedError):
            _, status = os.waitpid(job, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                break
    os.tcsetpgrp(0, os.getpgrp())
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _stream(number: int) -> Any:
    """A standard stream as Python makes it; None for a closed one."""
    try:
        return os.fdopen(number, "w" if number else "r", 1 if number == 2 or os.isatty(number) else -1)
    except OSError:
        return None


def _run(arguments: list[str]) -> NoReturn:
    """Run ``lrqk`` and end as Python would."""
    code: Any = 1
    atexit._clear()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SENT)
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)  # it came before the program
    try:
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        for do in _at_end:
            do()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:
        code = 97
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            code = 128 + signal.SIGINT  # it came before the program
        else:
            with contextlib.suppress(BaseException):
                traceback.print_exc()
                sys.stderr.flush()
    finally:
        os._exit(code)
