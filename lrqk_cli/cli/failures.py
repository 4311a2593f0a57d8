"""Report every failure of a run as one sentence, one hint and one exit code."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import typer

from lrqk_cli.errors import LrqkError, ModelError, OutOfMemoryError
from lrqk_cli.memory.exhaustion import is_out_of_memory
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

# Seconds until Ctrl-C is raised again where it could not be raised at once.
_PUT_OFF_S = 0.05
_HELP_HINT = "Run the command with --help to see what it takes."
_DEBUG_HINT = "Run it again with --debug to see the traceback, and please report it."


class SwallowedInterrupts:
    """Remembers Ctrl-C inside this context, because the import of a library may turn it into another failure.

    Ctrl-C is put off while torch is imported, because it would abort the process, and raised again where
    Python cannot pass it on, in ``__del__`` methods and weak references' callbacks.

    Attributes:
        seen: whether the user pressed Ctrl-C.
    """

    def __init__(self) -> None:
        self.seen = False
        self._unraisable = sys.unraisablehook

    def __enter__(self) -> SwallowedInterrupts:
        # Off the main thread, or where Ctrl-C is ignored, there is nothing to remember.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler and in_main_thread():
            signal.signal(signal.SIGINT, self._handle)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._unraisable
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if _imports_torch(frame):
            _interrupt_later()
        else:
            signal.default_int_handler(number, frame)

    def _on_unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            _interrupt_later()
        else:
            self._unraisable(lost)


def _interrupt_later() -> None:
    later = threading.Timer(_PUT_OFF_S, _interrupt)
    later.daemon = True
    later.start()


def _interrupt() -> None:
    """Raise Ctrl-C in the main thread, also while it waits in the system."""
    main = threading.main_thread().ident
    if sys.platform == "win32" or main is None:
        _thread.interrupt_main()
    else:
        signal.pthread_kill(main, signal.SIGINT)


def _imports_torch(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "torch":
            return True
        frame = frame.f_back
    return False


def warn_of_transformers() -> None:
    """Warn if the installed transformers is untested. Call this before importing it."""
    if warning := untested_warning():
        print_message(stderr_console(), "Warning", "yellow", warning)


def report(error: BaseException, debug: bool) -> int:
    """Print the failure that ended the run, with ``debug`` its traceback too; return the exit code."""
    console = stderr_console()
    if debug:
        print_traceback(console, error)
    if isinstance(error, KeyboardInterrupt):
        console.print("Interrupted.")
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        silence_stdout()
        return EXIT_UNEXPECTED
    if isinstance(error, OSError):
        _flush_stdout()
    if isinstance(error, LrqkError):
        print_failure(console, error.message, error.hint or _HELP_HINT * (error.exit_code == EXIT_USAGE))
        return error.exit_code
    if isinstance(error, CommandLineError):
        print_failure(console, *_explain_usage(error))
        return EXIT_USAGE
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] == "transformers":
        detail = str(error).strip().split("\n", 1)[0].rstrip(".")
        sentence = f"The installed transformers cannot be used: {detail}."
        print_failure(console, sentence, f"Run: pip install '{requirement()}'")
        return ModelError.exit_code
    print_unexpected(console, error, "" if debug else _DEBUG_HINT)
    return OutOfMemoryError.exit_code if is_out_of_memory(error) else EXIT_UNEXPECTED


def _flush_stdout() -> None:
    """Write what is left of the output, or drop it where it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_stdout()


def silence_stdout() -> None:
    """Send stdout to the null device, so that Python's last flush of a closed pipe does not fail."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _explain_usage(error: Exception) -> tuple[str, str]:
    """Return the sentence and the hint for an error of the command line parser."""
    message = " ".join(error.format_message().split()).replace("Value error, ", "")  # type: ignore[attr-defined]
    message += "" if message.endswith((".", "?", ")")) else "."
    context = getattr(error, "ctx", None)
    parameter = getattr(error, "param", None)
    source = context.get_parameter_source(parameter.name) if context and parameter else None
    origin = {"ENVIRONMENT": f"variable {getattr(parameter, 'envvar', '')}", "DEFAULT_MAP": "config file"}
    if source is not None and source.name in origin:
        message += f" It comes from the {origin[source.name]}."
    command = context.command_path if context else "lrqk"
    cause = error.__cause__
    hint = cause.hint if isinstance(cause, LrqkError) else f"Run '{command} --help' to see what there is."
    return message, hint
