from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from lrqk_cli.cli import failures
from lrqk_cli.cli.failures import EndingSignals, report
from lrqk_cli.cli.options import Invocation


@pytest.fixture(autouse=True)
def default_handler():
    """A test runner in the background may have been told to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def import_as(name: str, *, seconds: float = 0.0) -> dict[str, object]:
    """Run the body of a module, in which Ctrl-C comes."""
    names: dict[str, object] = {"__name__": name, "os": os, "signal": signal, "time": time}
    body = f"os.kill(os.getpid(), signal.SIGINT); time.sleep({seconds}); imported = True"
    exec(compile(body, name, "exec"), names)
    return names


def test_ctrl_c_while_a_module_is_imported_ends_that():
    with EndingSignals() as interrupts, pytest.raises(KeyboardInterrupt):
        import_as("other")
    assert isinstance(interrupts.raised, KeyboardInterrupt)


def test_ctrl_c_while_an_object_is_deleted_is_raised_after_it(capsys):
    class Deleted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def delete() -> None:
        Deleted()
        time.sleep(10)

    with EndingSignals() as interrupts, pytest.raises(KeyboardInterrupt):
        delete()
    assert isinstance(interrupts.raised, KeyboardInterrupt)
    assert not capsys.readouterr().err


def test_ctrl_c_while_torch_is_imported_waits_for_it():
    """Its compiled part aborts the process otherwise."""
    with EndingSignals() as interrupts:
        names = import_as("torch", seconds=0.2)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)
    assert names["imported"]
    assert isinstance(interrupts.raised, KeyboardInterrupt)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a Unix system")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_ends_the_process_puts_it_in_order(number: str) -> None:
    chosen = signal.Signals[number]
    before = signal.signal(chosen, signal.SIG_DFL)
    put_in_order = []

    def work() -> None:
        try:
            os.kill(os.getpid(), chosen)
        finally:
            os.kill(os.getpid(), chosen)  # told once more, which changes nothing
            put_in_order.append(True)

    try:
        with EndingSignals() as signals, pytest.raises(SystemExit) as end:
            work()
        assert signal.getsignal(chosen) is signal.SIG_DFL
    finally:
        signal.signal(chosen, before)
    assert put_in_order
    assert report(end.value, Invocation()) == report(signals.raised, Invocation()) == 128 + chosen


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a Unix system")
def test_an_end_that_is_lost_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_LOST_S", 0.2)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with EndingSignals():
            with contextlib.suppress(SystemExit):
                os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(SystemExit):
                time.sleep(10)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors of a Unix system")
def test_a_closed_stdout_is_none_of_a_file() -> None:
    """Otherwise the next file that is opened gets its number, and what is printed."""
    program = [sys.executable, "-m", "lrqk_cli", "cache", "list"]
    code = "import os, sys; os.close(1); os.execv(sys.executable, sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *program], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
