"""What the worker process of executor=stacked does: jobs that train an adapter side by side, others one at a time.

Jobs are begun in the order in which they come. One thread makes the examples of those that can be stacked; the main
thread has them join the stack, and does one update of the whole stack after the other. A job of another kind (a policy
that writes, an examination, a prediction in context) waits until the stack has run empty, is carried out by
`worker.carry_out` with nothing beside it, and those behind it wait for that.

Through the pipe come `(number, pickled job)`, and `(number, None)` for a job that is to be stopped. Back go, for each
job, `(number, None)` when it is begun, `(number, Progress)`, and at last `(number, bytes)`: a pickled `Outcome`, an
exception, or None for a job that is to be done again with nothing beside it. The model's outcome has number 0.
"""

import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from arc_seal.errors import JobFailure, Status
from arc_seal.inner_loop.job import AdaptJob, Job, Progress, Report
from arc_seal.sandbox.worker import (
    Outcome,
    StackedSettings,
    answered,
    apply_limits,
    attempt,
    become_worker,
    carry_out,
    load_for_good,
)

if TYPE_CHECKING:
    from arc_seal.inner_loop.stack import Prepared, Stack
    from arc_seal.models.model import Model


def can_be_stacked(job: Job[Any]) -> bool:
    """Whether a job trains a fresh adapter on the model as it is."""
    return (
        isinstance(job, AdaptJob)
        and job.self_edit is not None
        and job.training.method == "lora"
        and job.adapt_from is None
    )


def serve_stack(pipe: Connection, output: Connection, source: bytes, settings: StackedSettings) -> None:
    """Load the model, then do the jobs that come, until the parent ends the process."""
    become_worker(output)
    models: list[Model] = []

    def load() -> None:
        models.append(load_for_good(source))
        apply_limits(settings.model_copy(update={"workers": 1}))  # all jobs share the one process

    with suppress(EOFError, OSError):  # the parent is gone
        pipe.send((0, answered(attempt, load)))
        if models:
            _Server(pipe, models[0], settings).serve()
        pipe.recv()  # until it is ended


class _Stopped(JobFailure):
    """The parent only wants to know when the job has stopped."""

    status = Status.TIMEOUT


class _Server:
    """The jobs that are there, and how far they are."""

    def __init__(self, pipe: Connection, model: "Model", settings: StackedSettings) -> None:
        self._pipe, self._sending, self._process = pipe, threading.Lock(), os.getpid()
        self._model, self._settings = model, settings
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # what the main thread is to do
        self._waiting: deque[tuple[int, Job[Any]]] = deque()
        self._to_prepare: SimpleQueue[tuple[int, AdaptJob]] = SimpleQueue()
        self._preparing = 0
        self._stopped: set[int] = set()
        self._begun: dict[int, float] = {}  # when each was, in seconds of `time.perf_counter`
        self._stack: Stack | None = None  # made with the first job that trains, as it loads torch

    def serve(self) -> None:
        """Do jobs until the pipe ends."""
        for target in (self._read, self._prepare):
            threading.Thread(target=target, name=f"stack{target.__name__}", daemon=True).start()
        while self._listen():
            if self._waiting and self._may_begin():
                self._begin(*self._waiting.popleft())
            elif self._stack:
                self._advance(self._stack)

    def _read(self) -> None:
        """In a thread of its own: what comes through the pipe."""
        with suppress(EOFError, OSError):
            while True:
                number, job = self._pipe.recv()
                if job is None:
                    self._stopped.add(number)
                    self._inbox.put(partial(self._stop, number))
                else:
                    self._inbox.put(partial(self._take, number, job))
        self._inbox.put(None)

    def _prepare(self) -> None:
        """In a thread of its own: the examples of one job after the other, while others are trained."""
        while True:
            number, job = self._to_prepare.get()
            self._note_begun(number)
            self._inbox.put(partial(self._join, number, _tried(self._prepared, number, job)))

    def _prepared(self, number: int, job: AdaptJob) -> "Prepared":
        from arc_seal.inner_loop.stack import prepare

        made = prepare(job, self._model)
        if number in self._stopped:
            raise _Stopped
        return made

    def _listen(self) -> bool:
        """Do what has come, and wait for it where there is nothing else to do; False when the pipe has ended."""
        idle = not self._stack and not (self._waiting and self._may_begin())
        with suppress(Empty):
            while (action := self._inbox.get(block=idle)) is not None:
                action()
                idle = False
            return False
        return True

    def _take(self, number: int, job: bytes) -> None:
        """Have a job wait for its turn."""
        loaded = _tried(pickle.loads, job)
        if isinstance(loaded, Outcome) and loaded.status is Status.OK:
            self._waiting.append((number, cast(Job[Any], loaded.result)))
        else:
            self._answer(number, loaded)

    def _stop(self, number: int) -> None:
        """Have a job leave the stack, also where it waits for others and reports nothing."""
        if self._stack:
            self._stack.fail(number, _Stopped())

    def _may_begin(self) -> bool:
        """Whether the first that waits may be begun: if it can be stacked, or has the model for itself."""
        return can_be_stacked(self._waiting[0][1]) or not (self._stack or self._preparing)

    def _begin(self, number: int, job: Job[Any]) -> None:
        if can_be_stacked(job):
            self._preparing += 1
            self._to_prepare.put((number, cast(AdaptJob, job)))
        else:
            self._note_begun(number)
            self._answer(number, _tried(carry_out, job, self._model, self._report(number)))

    def _join(self, number: int, made: "Outcome[Any] | Exception") -> None:
        """Have a job join the stack whose examples are made, if they could be."""
        self._preparing -= 1
        if isinstance(made, Outcome) and made.status is Status.OK:
            made = _tried(self._stacked().add, number, made.result, self._report(number))
        if isinstance(made, Exception) or made.status is not Status.OK:
            self._answer(number, made)

    def _stacked(self) -> "Stack":
        from arc_seal.inner_loop.stack import Shapes, Stack, pass_tokens

        if self._stack is None:
            given = self._settings
            shapes = Shapes(given.tokens or pass_tokens(self._model.network), given.max_padding, given.length_bucket)
            self._stack = Stack(self._model, given.workers, shapes)
        return self._stack

    def _advance(self, stack: "Stack") -> None:
        """One update, or a prediction, of the stack; where it fails as a whole its jobs are done alone."""
        done = _tried(stack.advance)
        if isinstance(done, Outcome) and done.result is not None:
            for number, found in done.result:
                self._answer(number, _tried(_given, found))
            return
        numbers = stack.keys()
        stack.clear()
        alone = len(numbers) > 1 and isinstance(done, Outcome)  # such as out of memory, which one alone may not be
        for number in numbers:
            self._answer(number, None if alone else done)

    def _note_begun(self, number: int) -> None:
        self._begun[number] = time.perf_counter()
        self._send(number, None)

    def _report(self, number: int) -> Report:
        def report(progress: Progress) -> None:
            if number in self._stopped:
                raise _Stopped
            self._send(number, progress)

        return report

    def _answer(self, number: int, found: "Outcome[Any] | Exception | None") -> None:
        """The last word about a job."""
        spent_s = time.perf_counter() - self._begun.pop(number, time.perf_counter())
        timed = replace(found, seconds=spent_s) if isinstance(found, Outcome) else found
        self._stopped.discard(number)
        self._send(number, answered(_given, timed))

    def _send(self, number: int, said: Progress | bytes | None) -> None:
        if os.getpid() != self._process:
            os._exit(0)  # a job has forked: the answer is the worker's to give
        with self._sending:
            self._pipe.send((number, said))


def _tried(action: Callable[..., Any], *arguments: Any) -> Outcome[Any] | Exception:
    """The outcome of an action, or the error that it raised."""
    try:
        return attempt(action, *arguments)
    except Exception as error:
        return error


def _given(found: Any) -> Any:
    """What was found, raised where it is an error."""
    if isinstance(found, Exception):
        raise found
    return found
