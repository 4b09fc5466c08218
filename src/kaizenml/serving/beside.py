"""Asking models beside the event loop: those whose answers may take long, or never come. Hot path.

Each such model has a thread of its own, which asks it one thing at a time. What comes in meanwhile waits, and where the model
is cheaper with many rows at once, all that waits is asked together when the thread is free again: a busy model gets batches, an
idle one answers at once. Nothing of this concerns the models whose answers take microseconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from kaizenml.errors import Unavailable
from kaizenml.registry.runtimes import Model, Prediction

Row = Mapping[str, Any]
MOST_WAITING = 20_000
"""Rows that wait for one model; further ones are answered naively at once, with the reason."""


class Batching(NamedTuple):
    """How rows of several requests are put together, for the models where that pays."""

    rows: int = 64
    """At most so many at once; a single request may hold more."""
    wait_s: float = 0.0
    """How long a free model waits for more rows than there are; 0: not at all."""


class Waiting(NamedTuple):
    """One request's rows."""

    rows: Sequence[Row]
    answer: asyncio.Future[list[Prediction]]


class Beside:
    """All models of one process that are asked beside its event loop."""

    def __init__(self, batching: Batching) -> None:
        self._batching = batching
        self._lanes: WeakKeyDictionary[Model, Lane] = WeakKeyDictionary()

    async def answer(self, model: Model, rows: Sequence[Row]) -> list[Prediction]:
        """Return the answers of a model.

        Raises
        ------
        InvalidInput : a row does not fit; known at once, without the model.
        Unavailable : too many rows wait for it.
        Exception : whatever asking the model raises.
        """
        model.check(rows)
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = Lane(model.batches, self._batching)
        return await lane.answer(model, rows)


class Lane:
    """The thread of one model and what waits for it. Does not keep the model alive."""

    def __init__(self, together: bool, batching: Batching) -> None:
        self._most = batching.rows if together else 1
        self._wait_s = batching.wait_s if together else 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: deque[Waiting] = deque()
        self._rows = 0
        self._task: asyncio.Task[None] | None = None

    async def answer(self, model: Model, rows: Sequence[Row]) -> list[Prediction]:
        if self._rows + len(rows) > MOST_WAITING:
            raise Unavailable(f"{self._rows:,} rows wait for the model already", remedy="ask again in a moment", values={"waiting": self._rows})
        loop = asyncio.get_running_loop()
        waiting = Waiting(rows, loop.create_future())
        self._waiting.append(waiting)
        self._rows += len(rows)
        if self._task is None:
            self._task = loop.create_task(self._run(model))
        return await waiting.answer

    async def _run(self, model: Model) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                if self._wait_s and self._rows < self._most:
                    await asyncio.sleep(self._wait_s)
                batch = self._take()
                found = await loop.run_in_executor(self._thread, _ask, model, [each.rows for each in batch])
                self._rows -= sum(len(each.rows) for each in batch)
                for each, answer in zip(batch, found, strict=True):
                    if each.answer.done():  # nobody waits for it any more
                        continue
                    if isinstance(answer, BaseException):
                        each.answer.set_exception(answer)
                    else:
                        each.answer.set_result(answer)
        finally:
            self._task = None

    def _take(self) -> list[Waiting]:
        """Return the requests to ask together: the oldest, and those behind it as long as there is room."""
        batch = [self._waiting.popleft()]
        size = len(batch[0].rows)
        while self._most > 1 and self._waiting and size + len(self._waiting[0].rows) <= self._most:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].rows)
        return batch

    def __del__(self) -> None:
        self._thread.shutdown(wait=False)


def _ask(model: Model, parts: list[Sequence[Row]]) -> list[list[Prediction] | Exception]:
    """Ask for all parts together; where that fails, for each by itself, so that one cannot spoil the others'. Runs in the model's thread."""
    if len(parts) > 1:
        try:
            answers = model.answer([row for part in parts for row in part])
        except Unavailable as error:  # its process is gone: asking again would only be told the same
            return [error for _ in parts]
        except Exception:
            return [_alone(model, part) for part in parts]
        found: list[list[Prediction] | Exception] = []
        begin = 0
        for part in parts:
            found.append(answers[begin : begin + len(part)])
            begin += len(part)
        return found
    return [_alone(model, parts[0])]


def _alone(model: Model, rows: Sequence[Row]) -> list[Prediction] | Exception:
    try:
        return model.answer(rows)
    except Exception as error:
        return error
