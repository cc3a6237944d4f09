"""Several executors that act as one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import LifoQueue

from arc_seal.inner_loop.job import Report
from arc_seal.sandbox.base import Executor, Job, Outcome, R


class Workers:
    """Gives each job to an executor that is free: as many jobs at the same time as there are executors.

    Args:
        executors: What runs the jobs, one at a time each.
    """

    def __init__(self, executors: Sequence[Executor]) -> None:
        self._executors = tuple(executors)
        self._free: LifoQueue[Executor] = LifoQueue()  # the last one used has its model loaded
        for executor in reversed(self._executors):
            self._free.put(executor)

    @property
    def workers(self) -> int:
        """How many jobs run at the same time."""
        return len(self._executors)

    def start(self) -> None:
        """Have every executor begin to load its model."""
        for executor in self._executors:
            executor.start()

    def run(self, job: Job[R], report: Report) -> Outcome[R]:
        """Run a job to its outcome on the next executor that is free.

        Raises:
            ExecutorClosed: When the executor was closed before there was an outcome.
            Exception: What the executor raises.
        """
        executor = self._free.get()
        try:
            return executor.run(job, report)
        finally:
            self._free.put(executor)

    def close(self) -> None:
        """Let all executors go, at the same time: each may take a moment to end what it is doing."""
        with ThreadPoolExecutor(len(self._executors), thread_name_prefix="close") as threads:
            for closing in [threads.submit(executor.close) for executor in self._executors]:
                closing.result()
