"""As many jobs at the same time as an executor has workers."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from arc_seal.sandbox.base import Executor

T = TypeVar("T")
U = TypeVar("U")


def concurrently(executor: Executor, work: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Do `work` on every item, each call in a thread that may use the executor; yields what comes of it as it comes.

    What a call raises is raised here, after the calls under way have ended; no other is begun. On an interrupt the
    executor's workers are ended first, so that nothing is waited for.
    """
    failed = threading.Event()

    def once(item: T) -> list[U]:
        """What comes of an item, or nothing after a failure."""
        try:
            return [] if failed.is_set() else [work(item)]
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(executor.workers, thread_name_prefix="roll-out") as threads:
        try:
            for future in as_completed([threads.submit(once, item) for item in items]):
                yield from future.result()
        except BaseException as error:
            threads.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, Exception):
                executor.close()
            raise
