"""One sampling loop for all requests: texts that wait and are sampled with the same settings share a batch.

A step of many texts takes hardly longer than a step of one.
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from operator import itemgetter
from typing import Any, NamedTuple

import torch

from ..core.denoiser import Batch
from ..core.generate import Frame, TextModel
from ..writing.requests import Forbidden, Row, Watch, write_rows

Found = list[tuple[int, list[int]]]  # (number, ids) of each row
MOST_ROWS = 64  # of several orders in one batch


class Gone(Exception):
    """Nobody waits for these texts any more."""


class Order(NamedTuple):
    """The rows of one request."""

    rows: Sequence[Row]
    forbidden: Forbidden
    settings: dict[str, Any]  # what else write_rows takes
    watch: Watch | None
    gone: threading.Event  # set when nobody waits for it any more
    texts: Future[Found]

    def is_like(self, other: "Order") -> bool:
        """They can be sampled in one batch."""
        return self.settings == other.settings and torch.equal(self.forbidden, other.forbidden)


class SharedLoop:
    """The thread that samples, and the orders that wait for it.

    Attributes:
        steps, texts: how many of both it has done; a step of many texts is one.
    """

    def __init__(self, model: TextModel) -> None:
        self.model = model.eval()
        self.steps, self.texts = 0, 0
        self.waiting: deque[Order] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self._run, name="sampling", daemon=True)
        self.thread.start()

    def write_rows(
        self,
        gone: threading.Event,
        rows: Sequence[Row],
        forbidden: Forbidden,
        watch: Watch | None = None,
        **settings: Any,
    ) -> Found:
        """As writing.requests.write_rows, for any number of threads at once.
        Raises Gone where `gone` is set before they begin; else within a step once nobody waits any more."""
        order = Order(rows, forbidden, settings, watch, gone, Future())
        with self.changed:
            self.heed(gone)
            self.waiting.append(order)
            self.changed.notify()
        return order.texts.result()

    def heed(self, gone: threading.Event) -> None:
        """Raises Gone where nobody waits for an answer, or the loop is to end."""
        if self.closed or gone.is_set():
            raise Gone

    def close(self) -> None:
        """Ends the loop with the step that is under way. Orders that wait raise Gone."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()

    def _run(self) -> None:
        while orders := self._next():
            try:
                self._write(orders)
            except Exception as error:  # is raised where they wait; the loop goes on for the others
                for order in orders:
                    if not order.texts.done():
                        order.texts.set_exception(error)
        for order in self.waiting:
            order.texts.set_exception(Gone())

    def _next(self) -> list[Order]:
        """The order that has waited longest, and those like it; none when the loop is to end."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.closed)
            if self.closed:
                return []
            first = self.waiting.popleft()
            chosen, room = [first], MOST_ROWS - len(first.rows)
            left: deque[Order] = deque()
            for order in self.waiting:
                if len(order.rows) <= room and order.is_like(first):
                    chosen.append(order)
                    room -= len(order.rows)
                else:
                    left.append(order)
            self.waiting = left
            return chosen

    def _write(self, orders: Sequence[Order]) -> None:
        # Numbers are unique within an order only: in the batch a row's number is its index here.
        owned = [(order, row) for order in orders for row in order.rows]
        numbered = [row._replace(number=n) for n, (_, row) in enumerate(owned)]

        def look(batch: Batch, frame: Frame) -> None:
            self.steps += 1
            if self.closed or all(order.gone.is_set() for order in orders):
                raise Gone
            owners = [owned[n] for n in batch.number.tolist()]
            for order in orders:
                indices = [i for i, (owner, _) in enumerate(owners) if owner is order]
                if indices and order.watch is not None and not order.gone.is_set():
                    numbers = torch.tensor([owners[i][1].number for i in indices])
                    own = batch.each(itemgetter(indices))
                    order.watch(own._replace(number=numbers), _of_rows(frame, indices))

        first = orders[0]
        found = dict(write_rows(self.model, numbered, first.forbidden, watch=look, **first.settings))
        self.texts += len(owned)
        for order in orders:
            texts = [(row.number, found[n]) for n, (owner, row) in enumerate(owned) if owner is order]
            order.texts.set_result(texts)


def _of_rows(frame: Frame, indices: Sequence[int]) -> Frame:
    """The frame of some of the texts, in rising order."""
    own = torch.zeros_like(frame.where)
    own[indices] = True
    ids, free, where = (part[indices] for part in frame[:3])
    return Frame(ids, free, where, frame.logits[own[frame.where]])
