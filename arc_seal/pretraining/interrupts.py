"""Ctrl-C that waits for a good moment, so that no update is cut in two."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C or SIGTERM is only noted; the second does not wait.

    Outside the main thread, where Python takes no signals, none is noted. One that is ignored stays so (nohup, &).

    Yields:
        Says whether one came.

    Raises:
        KeyboardInterrupt: When an error came after a signal: what it ended may be a process that the work needed.
    """
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    before = {number: signal.getsignal(number) for number in SIGNALS} if _is_main_thread() else {}
    taken = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in taken:
        signal.signal(number, note)
    try:
        yield lambda: noted
    except Exception as error:
        if noted:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler or signal.SIG_DFL)


def leave_interrupts(worker: int = 0) -> None:
    """Leave Ctrl-C to the main process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
