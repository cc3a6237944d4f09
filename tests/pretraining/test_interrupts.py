"""Ctrl-C and SIGTERM while something is done that must not be cut in two."""

import signal
import threading

import pytest

from arc_seal.pretraining.pool import interrupts
from tests.pretraining.tiny import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_noted_and_the_second_does_not_wait(number: signal.Signals) -> None:
    with interruptible():
        before = signal.getsignal(number)
        with interrupts() as noted:
            assert not noted()
            signal.raise_signal(number)
            assert noted()
        assert signal.getsignal(number) == before
        with pytest.raises(KeyboardInterrupt), interrupts():
            signal.raise_signal(number)
            signal.raise_signal(number)
        assert signal.getsignal(number) == before


def test_one_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts() as noted:
            signal.raise_signal(signal.SIGINT)
            assert not noted()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_after_one_is_the_interrupts() -> None:
    with interruptible(), pytest.raises(KeyboardInterrupt) as caught, interrupts():
        signal.raise_signal(signal.SIGINT)
        raise OSError("the compiler was interrupted, too")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(OSError, match="its own"), interrupts():
        raise OSError("its own")


def test_other_threads_take_no_signals() -> None:
    answers: list[bool] = []

    def work() -> None:
        with interrupts() as noted:
            answers.append(noted())

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False] and signal.getsignal(signal.SIGINT) == before
