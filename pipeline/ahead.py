"""Work done ahead of need, in the background.

One thread, not processes: reading, converting and standardising release Python's lock, a thread
needs no shared memory and no second copy of the index, and it cannot outlive its process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

DEPTH = 4
"""Results that wait at most."""


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], depth: int = DEPTH
) -> Generator[tuple[Item, Result]]:
    """Yield each item with what `work` makes of it, in order, at most `depth` ahead of the caller.

    What `work` raises is raised here when its item is due. Only one such iterator may use the same
    reader at a time; one that is left early finishes the item it is at, and no other.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(1, "ahead")
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > depth:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)
