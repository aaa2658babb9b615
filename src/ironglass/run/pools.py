"""Where jobs run: here, or in worker processes. The answer is the same."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, Self

import torch

from ironglass.core.errors import InputError, MethodFailed
from ironglass.core.results import Result
from ironglass.models import python_file
from ironglass.models.adapter import Adapter

from .judge import Job, judge


class Pool(Protocol):
    """Maps jobs to results, in order."""

    def close(self) -> None:
        """Ends what the pool keeps running."""

    def map(self, model: Adapter, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yields each job's result."""


class Serial:
    """One job after the other, in this process."""

    def close(self) -> None:
        """Does nothing: there is nothing to end."""

    def map(self, model: Adapter, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yields each job's result."""
        for job in jobs:
            yield judge(model, job)


class Processes:
    """Spawned worker processes, kept while they work for the same model, which travels to each of them once.

    Use it in a ``with`` block, or `close` it.

    Args:
        workers: how many processes. Each runs with this process's number of threads: a sum's rounding depends on it.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise InputError(f"workers={workers}", "give at least 1")
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._packed = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def map(self, model: Adapter, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yields each job's result, in order.

        Raises:
            InputError: if the model cannot be sent to another process.
        """
        jobs = list(jobs)
        if not jobs:
            return
        try:
            packed = pickle.dumps(model)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"the model cannot be sent to worker processes: {error}",
                "define its class or function at the top of a module, or use workers=1",
            ) from error
        if self._executor is None or packed != self._packed:
            self.close()
            context = multiprocessing.get_context("spawn")
            start = (packed, torch.get_num_threads(), python_file.files())
            self._executor, self._packed = ProcessPoolExecutor(self.workers, context, _start, start), packed
        try:
            yield from self._executor.map(_work, jobs)
        except BrokenProcessPool as error:
            self._executor = None
            raise MethodFailed("a worker process died", "use workers=1 to see why, or give it more memory") from error


_model: Adapter | None = None


def _start(packed: bytes, threads: int, files: tuple[str, ...]) -> None:
    global _model
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(threads)
    python_file.run_files(files)
    _model = pickle.loads(packed)  # from our own parent process


def _work(job: Job) -> Result:
    assert _model is not None
    return judge(_model, job)
