"""Do independent pieces of numerical work on all processors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from joblib import cpu_count  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lcnn_compress.progress import Progress, silent

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Sequence[T], stage: str, progress: Progress = silent) -> list[R]:
    """Return ``work`` of each item, in order, one item per processor at a time.

    Matrix libraries get one thread each, so that results do not depend on the number of processors. An exception of an item
    ends the call once the items begun are done, and Ctrl-C at once, though they go on; the others are not begun.

    Args:
        work: called in other threads; should spend its time in code that lets other threads run (numpy, scikit-learn).
        items: what to work on.
        stage: name of this work for ``progress``.
        progress: called in the caller's thread after each item.
    """

    def limited(item: T) -> R:
        with threadpool_limits(1):  # OpenMP keeps one limit for each thread
            return work(item)

    results: list[R] = []
    progress(stage, 0, len(items))
    # BLAS keeps one limit for all threads, so it must not be lifted by the item that ends first.
    pool = ThreadPoolExecutor(cpu_count())
    with threadpool_limits(1):
        try:
            for result in pool.map(limited, items):
                results.append(result)
                progress(stage, len(results), len(items))
        except BaseException as error:
            pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
        pool.shutdown()
    return results
