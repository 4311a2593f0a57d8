"""Report every failure of a run as one sentence, one hint and one exit code."""

from __future__ import annotations

import _thread
import math
import os
import re
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import typer

from lrqk_cli.cli.options import Invocation
from lrqk_cli.errors import LrqkError, ModelError, OutOfMemoryError, UsageError
from lrqk_cli.memory.exhaustion import is_out_of_memory
from lrqk_cli.naming import COMMAND_LINE
from lrqk_cli.terminal.console import (
    print_failure,
    print_message,
    print_traceback,
    print_unexpected,
    stderr_console,
)
from lrqk_cli.terminal.interrupts import in_main_thread
from lrqk_cli.upstream import requirement, untested_warning

# Typer carries its own copy of click since 0.26; the parent of BadParameter is click's usage error in both.
CommandLineError: type[Exception] = typer.BadParameter.__bases__[0]

EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_ENDING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if sys.platform != "win32" else [])]
# Seconds until a signal is raised again where it could not be raised at once.
_PUT_OFF_S = 0.05
# Seconds in which a process that a signal ends puts things in order.
_LOST_S = 5.0
_FLAG = re.compile("--[a-z][a-z-]*")
_HELP_HINT = "Run the command with --help to see what it takes."
_DEBUG_HINT = "Run it again with --debug to see the traceback, and please report it."


class EndingSignals:
    """Inside this context SIGINT raises ``KeyboardInterrupt``, and SIGTERM and SIGHUP raise ``SystemExit``.

    So what was begun is put in order: the terminal's modes, the session, other processes. The exit code is
    the one that shells know of such an end. What a signal raises is put off while torch is imported, because
    it would abort the process, and raised again where Python cannot pass it on, in ``__del__`` methods and
    weak references' callbacks. An end that is lost otherwise, such as by a failure while things are put in
    order, is raised again after some seconds.
    """

    def __init__(self) -> None:
        self._unraisable = sys.unraisablehook
        self._before: dict[int, Any] = {}
        self._terminals = list[int]()
        self._last: signal.Signals | None = None
        self._raised_at = -math.inf
        self._is_over = False

    @property
    def raised(self) -> KeyboardInterrupt | SystemExit | None:
        """What the last signal raised, which the import of a library may have turned into another failure."""
        if self._last is None:
            return None
        return KeyboardInterrupt() if self._last == signal.SIGINT else SystemExit(128 + self._last)

    def __enter__(self) -> EndingSignals:
        self._terminals = [number for number in range(3) if os.isatty(number)]
        # Off the main thread, or where a signal is ignored, there is nothing to do.
        for number in _ENDING if in_main_thread() else ():
            if (before := signal.getsignal(number)) in (signal.default_int_handler, signal.SIG_DFL):
                self._before[number] = before
                signal.signal(number, self._handle)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        sys.unraisablehook = self._unraisable
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            self._let_go_of_terminals()
            now = time.monotonic()
            if number == self._last and now - self._raised_at < _LOST_S / 2:
                return  # the end of a terminal may be told twice, by the system and by a shell
            self._raised_at = now
        self._last = signal.Signals(number)
        if _imports_torch(frame):
            self._raise_later()
        elif self.raised is not None:
            if number != signal.SIGINT:
                self._send_later(self._last, _LOST_S)
            raise self.raised

    def _let_go_of_terminals(self) -> None:
        """Write nothing more to terminals that are gone, which would fail."""
        for number in self._terminals:
            if not os.isatty(number):
                _send_to_nowhere(number)

    def _on_unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        if isinstance(self.raised, lost.exc_type):
            self._raise_later()
        else:
            self._unraisable(lost)

    def _raise_later(self) -> None:
        if self._last is not None:
            self._raised_at = -math.inf
            self._send_later(self._last, _PUT_OFF_S)

    def _send_later(self, number: signal.Signals, seconds: float) -> None:
        def send() -> None:
            if not self._is_over:
                _send(number)

        later = threading.Timer(seconds, send)
        later.daemon = True
        later.start()


def _send(number: signal.Signals) -> None:
    """Send a signal to the main thread, also while it waits in the system."""
    main = threading.main_thread().ident
    if sys.platform == "win32" or main is None:
        _thread.interrupt_main(number)
    else:
        signal.pthread_kill(main, number)


def _imports_torch(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "torch":
            return True
        frame = frame.f_back
    return False


def open_streams() -> None:
    """Connect the standard streams that are closed to the null device.

    Otherwise what is written to one fails, and the next file that is opened takes its place.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def warn_of_transformers() -> None:
    """Warn if the installed transformers is untested. Call this before importing it."""
    if warning := untested_warning():
        print_message(stderr_console(), "Warning", "yellow", warning)


def report(error: BaseException, invocation: Invocation) -> int:
    """Print the failure that ended the run, in debug mode its traceback too; return the exit code."""
    console = stderr_console()
    if invocation.debug:
        print_traceback(console, error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        # A signal comes at any moment, also when the cursor has just been hidden.
        console.show_cursor(True)
    if isinstance(error, KeyboardInterrupt):
        console.print("Interrupted.")
        return EXIT_INTERRUPTED
    if isinstance(error, SystemExit):
        return int(error.args[0])
    if isinstance(error, BrokenPipeError):
        silence_stdout()
        return EXIT_UNEXPECTED
    if isinstance(error, OSError):
        _flush_stdout()
    if isinstance(error, LrqkError):
        hint = error.hint or _HELP_HINT * (error.exit_code == EXIT_USAGE)
        print_failure(console, " ".join([error.message, *_origins(error, invocation.context)]), hint)
        return error.exit_code
    if isinstance(error, CommandLineError):
        print_failure(console, *_explain_usage(error))
        return EXIT_USAGE
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] == "transformers":
        detail = str(error).strip().split("\n", 1)[0].rstrip(".")
        sentence = f"The installed transformers cannot be used: {detail}."
        print_failure(console, sentence, f"Run: pip install '{requirement()}'")
        return ModelError.exit_code
    print_unexpected(console, error, "" if invocation.debug else _DEBUG_HINT)
    return OutOfMemoryError.exit_code if is_out_of_memory(error) else EXIT_UNEXPECTED


def _flush_stdout() -> None:
    """Write what is left of the output, or drop it where it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_stdout()


def silence_stdout() -> None:
    """Send stdout to the null device, so that Python's last flush of a closed pipe does not fail."""
    _send_to_nowhere(sys.stdout.fileno())


def _send_to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _explain_usage(error: Exception) -> tuple[str, str]:
    """Return the sentence and the hint for an error of the command line parser."""
    message = " ".join(error.format_message().split()).replace("Value error, ", "")  # type: ignore[attr-defined]
    message += "" if message.endswith((".", "?", ")")) else "."
    context = getattr(error, "ctx", None)
    parameter = getattr(error, "param", None)
    if context and parameter and (origin := _origin(context, parameter)):
        message += f" It comes from the {origin}."
    command = context.command_path if context else "lrqk"
    cause = error.__cause__
    hint = cause.hint if isinstance(cause, LrqkError) else f"Run '{command} --help' to see what there is."
    return message, hint


def _origins(error: LrqkError, context: typer.Context | None) -> list[str]:
    """Return a sentence for each option in a failure that a variable or the config file has set."""
    if context is None:
        return []
    said = f"{error.message} {error.hint if isinstance(error, UsageError) else ''}"
    flags = dict.fromkeys(_FLAG.findall(COMMAND_LINE.message(said)))
    options = {flag: parameter for parameter in context.command.params for flag in parameter.opts}
    found = {flag: _origin(context, options[flag]) for flag in flags if flag in options}
    return [f"{flag} comes from the {origin}." for flag, origin in found.items() if origin]


def _origin(context: Any, parameter: Any) -> str:
    """Return where the value of an option comes from, if not from the command line; else an empty text."""
    source = context.get_parameter_source(parameter.name)
    known = {"ENVIRONMENT": f"variable {parameter.envvar}", "DEFAULT_MAP": "config file"}
    return known.get(source.name, "") if source is not None else ""
