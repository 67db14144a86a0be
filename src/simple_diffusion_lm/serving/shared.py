"""One sampling loop for everyone who asks: texts that wait and are to be sampled alike go together.

A step of many texts takes hardly longer than a step of one, so that company costs little.
"""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ..model.objective import Objective
from ..model.slots import Frame, Settings, Slot, Slots, Vocabulary, Watch, batches_of


class Gone(Exception):
    """Nobody waits for these texts any more."""


@dataclass(eq=False)
class Order:
    """What one asker wants to have written."""

    slots: Sequence[Slot]
    settings: Settings
    vocabulary: Vocabulary
    watch: Watch | None
    gone: threading.Event  # set when nobody waits for it any more
    texts: "Future[list[tuple[int, Int[Tensor, ' L']]]]"

    def like(self, other: "Order") -> bool:
        """They can be sampled together."""
        alike = zip(self.vocabulary[:2], other.vocabulary[:2], strict=True)
        return self.settings == other.settings and all(torch.equal(a, b) for a, b in alike)


class SharedLoop:
    """The thread that samples, and what waits for it.

    Attributes:
        steps, texts: how many of both it has done; a step of many texts is one.
    """

    def __init__(self, model: Objective, rows: int = 64) -> None:
        """rows: the most texts in one step."""
        self.model = model.eval()
        self.rows = rows
        self.steps, self.texts = 0, 0
        self.waiting: deque[Order] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self._run, name="sampling", daemon=True)
        self.thread.start()

    def generate(
        self,
        gone: threading.Event,
        slots: Sequence[Slot],
        settings: Settings,
        vocabulary: Vocabulary,
        batch_size: int,
        watch: Watch | None,
    ) -> Iterable[tuple[int, Int[Tensor, " L"]]]:
        """As Objective.generate, for any number of threads at once.

        Raises Gone, within a step, once `gone` is set.
        """
        order = Order(slots, settings, vocabulary, watch, gone, Future())
        with self.changed:
            if self.closed:
                raise Gone
            self.waiting.append(order)
            self.changed.notify()
        return order.texts.result()

    def close(self) -> None:
        """Ends the loop with the step that is under way; what waits is given up."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()

    def _run(self) -> None:
        while orders := self._next():
            try:
                self._write(orders)
            except Exception as error:  # theirs to hear of; the loop goes on for the others
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
            chosen, room = [first], self.rows - len(first.slots)
            left: deque[Order] = deque()
            for order in self.waiting:
                if len(order.slots) <= room and order.like(first):
                    chosen.append(order)
                    room -= len(order.slots)
                else:
                    left.append(order)
            self.waiting = left
            return chosen

    def _write(self, orders: Sequence[Order]) -> None:
        first = orders[0]
        owned = [(order, slot) for order in orders for slot in order.slots]
        slots = [slot._replace(number=n) for n, (_, slot) in enumerate(owned)]
        found: dict[int, Tensor] = {}
        for group in batches_of(slots, self.rows, self.model.embedding.weight.device):
            for frame in self.model.write(group, first.settings, first.vocabulary):
                self.steps += 1
                if self.closed or all(order.gone.is_set() for order in orders):
                    raise Gone
                self._show(group, frame, owned)
            found.update(group.texts(frame.ids))
        self.texts += len(slots)
        for order in orders:
            own = [n for n, (owner, _) in enumerate(owned) if owner is order]
            order.texts.set_result([(owned[n][1].number, found[n]) for n in own])

    @staticmethod
    def _show(group: Slots, frame: Frame, owned: Sequence[tuple[Order, Slot]]) -> None:
        """Each asker who watches sees its own texts."""
        rows: dict[int, list[int]] = {}
        for row, number in enumerate(group.numbers):
            rows.setdefault(id(owned[number][0]), []).append(row)
        for own in rows.values():
            order = owned[group.numbers[own[0]]][0]
            if order.watch is not None and not order.gone.is_set():
                numbers = [owned[group.numbers[row]][1].number for row in own]
                order.watch(group.only(own)._replace(numbers=numbers), frame.only(own))
