from __future__ import annotations

import os
import signal
import threading

import pytest

from lrqk_cli.terminal.interrupts import Interrupts


@pytest.fixture(autouse=True)
def default_handler():
    """A test runner in the background may have been told to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_interrupt_sets_a_flag_and_the_second_raises():
    told = []
    with Interrupts(lambda: told.append(True)) as interrupts:
        assert not interrupts()
        interrupt()
        assert interrupts()
        assert told == [True]
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_the_former_handler_is_back_afterwards_and_the_flag_stays():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        interrupt()
    assert signal.getsignal(signal.SIGINT) is before
    assert interrupts()


def test_entering_again_clears_the_flag():
    interrupts = Interrupts()
    with interrupts:
        interrupt()
    with interrupts:
        assert not interrupts()


def test_off_the_main_thread_it_does_nothing():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with Interrupts() as interrupts:
            seen.append((signal.getsignal(signal.SIGINT) is before, interrupts()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]


def test_an_interrupt_between_two_contexts_waits_for_the_next():
    interrupts = Interrupts()
    with interrupts.put_off():
        interrupt()
        with interrupts:
            assert interrupts()
        interrupt()
        with pytest.raises(KeyboardInterrupt), interrupts.raised():
            raise AssertionError("not reached")
        with interrupts.raised(), pytest.raises(KeyboardInterrupt):
            interrupt()


def test_an_interrupt_while_another_is_handled_waits():
    interrupts, done = Interrupts(), []

    def work() -> None:
        try:
            interrupt()
        finally:
            interrupt()
            done.append(True)

    with interrupts.put_off():
        with pytest.raises(KeyboardInterrupt), interrupts.raised():
            work()
        assert done


@pytest.mark.parametrize("clears", [True, False], ids=["typing", "entered"])
def test_an_interrupt_of_a_line_stops_what_follows_if_the_line_was_entered(clears):
    interrupts = Interrupts()
    with interrupts.put_off():
        interrupt()  # stops nothing any more when a line is read
        with interrupts.reading(lambda: clears):
            interrupt()
        with interrupts:
            assert interrupts() is not clears
