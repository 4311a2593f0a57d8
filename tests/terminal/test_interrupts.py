from __future__ import annotations

import os
import signal
import threading

import pytest

from lrqk_cli.terminal.interrupts import Interrupts


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
