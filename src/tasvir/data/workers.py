"""Work on pictures spread over all cores, results in order, with a progress bar on a terminal."""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from tasvir.config import Refused
from tasvir.data.items import Items

T = TypeVar("T")
C = TypeVar("C", bound=Sized)

_SHARED: dict[int, Items] = {}  # forked workers inherit it: nothing has to be sent


class Workers:
    """An executor, and the key under which its workers find the pictures."""

    def __init__(self, executor: Executor, key: int, count: int):
        self.executor, self.key, self.count = executor, key, count

    def map(self, function: Callable[[Items, C], T], chunks: list[C], total: int, what: str) -> Iterator[T]:
        """`function(items, chunk)` for each chunk, in order, a few ahead of what was asked for."""
        pending: deque[tuple[int, Future[T]]] = deque()
        with progress(total, what) as advance:
            try:
                for chunk in chunks:
                    pending.append((len(chunk), self.executor.submit(_call, function, self.key, chunk)))
                    if len(pending) > 2 * self.count:
                        length, future = pending.popleft()
                        yield future.result()
                        advance(length)
                while pending:
                    length, future = pending.popleft()
                    yield future.result()
                    advance(length)
            except BrokenProcessPool:
                raise Refused(
                    "A process that decodes pictures was ended from outside, perhaps for want of memory.\n"
                    "Try again with more memory free, or with a smaller --data.size."
                ) from None
            finally:
                for _, future in pending:
                    future.cancel()


def _call(function: Callable[[Items, C], T], key: int, chunk: C) -> T:
    return function(_SHARED[key], chunk)


def chunked(numbers: list[int], length: int) -> list[list[int]]:
    """The numbers in pieces of `length`, the last one shorter."""
    return [numbers[start : start + length] for start in range(0, len(numbers), length)]


@contextmanager
def workers(items: Items) -> Iterator[Workers]:
    """Processes on Linux (measured: twice as fast as threads on small files); threads where forking is not safe."""
    key = id(items)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = count if items.slow else 1
    executor: Executor
    if sys.platform == "linux" and items.slow:
        executor = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), initializer=_in_a_worker)
    else:
        executor = ThreadPoolExecutor(count)
    _SHARED[key] = items
    try:
        yield Workers(executor, key, count)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        del _SHARED[key]


def _in_a_worker() -> None:
    """A worker leaves interruptions to its parent, does not outlive it, and does not copy what it inherits."""
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more pictures are done; shows a bar when stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)
