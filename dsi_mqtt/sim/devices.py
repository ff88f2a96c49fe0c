"""Devices that ask: the machine of the project's client, beside the broker."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from dsi_mqtt.core.client import Abandon, ClientEffects, PendingInputs, SendInput
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.request import Reply
from dsi_mqtt.sim.broker import Broker, Delivery
from dsi_mqtt.sim.clock import TICKS_PER_S, Clock, tick_behind, tick_not_before

# A client waits longer than its door may take, or an answer could be on its way.
WAITS_BEYOND_S: Final = 15.0


@dataclass(slots=True)
class Answers:
    """What came of the inputs. latencies_s: of results, from the broker to the broker.

    asked_at: when each of those was asked. failed_at: when those were that have no result.
    """

    asked: int = 0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    asked_at: array[float] = field(default_factory=lambda: array("d"))
    failed_at: array[float] = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0
    repeated: int = 0

    @property
    def settled(self) -> int:
        return len(self.latencies_s) + self.errors.total() + self.abandoned


@dataclass(frozen=True, slots=True)
class Stream:
    """Inputs of so many bytes for one deployment. times: when they come."""

    spec: Deployment
    nbytes: int
    times: Iterator[float]


class Device:
    """One client, with the inputs of one stream."""

    def __init__(
        self, name: str, stream: Stream, answers: Answers, *, clock: Clock, broker: Broker
    ) -> None:
        self.name = name
        self.answers = answers
        self._stream = stream
        self._clock = clock
        self._broker = broker
        self._journal = broker.journal
        self._machine = PendingInputs()
        self._machine.connected(0.0)
        self._sent: dict[bytes, float] = {}
        self._number = 0
        self._tick: int | None = None
        self._broker.listeners[name] = self
        self._await_next()

    def _await_next(self) -> None:
        time = next(self._stream.times, math.inf)
        self._clock.at(time, self._ask)

    def _ask(self) -> None:
        now = self._clock.now
        self._number += 1
        id_ = self._number.to_bytes(16, "big")
        self._sent[id_] = now
        self.answers.asked += 1
        deadline = now + self._stream.spec.deadline_s + WAITS_BEYOND_S
        self._act(self._machine.submitted(id_, deadline, now))
        self._plan_tick()
        self._await_next()

    def answered(self, reply: Reply) -> None:
        id_ = reply.correlation
        if id_ is None or not self._machine.answered(id_):
            self.answers.repeated += 1
            return
        sent = self._sent.pop(id_)
        took = self._clock.now - sent
        if reply.failure is None:
            self.answers.latencies_s.append(took)
            self.answers.asked_at.append(sent)
        else:
            self.answers.failed_at.append(sent)
            self.answers.errors[reply.failure.code] += 1
        outcome = reply.failure.code if reply.failure else "ok"
        self._tell(id_, outcome, took)

    def _tell(self, id_: bytes, outcome: str, took: float) -> None:
        self._journal.write(
            self._clock.now,
            "answered",
            deployment=self._stream.spec.name,
            device=self.name,
            input=int.from_bytes(id_, "big"),
            outcome=outcome,
            ms=round(took * 1e3, 3),
        )

    def _act(self, effects: ClientEffects) -> None:
        for effect in effects:
            if isinstance(effect, SendInput):
                delivery = Delivery(effect.id, self.name, self._stream.nbytes)
                self._broker.publish_input(self._stream.spec.name, delivery)
            elif isinstance(effect, Abandon):
                sent = self._sent.pop(effect.id)
                self.answers.abandoned += 1
                self.answers.failed_at.append(sent)
                self._tell(effect.id, "abandoned", self._clock.now - sent)

    def _plan_tick(self) -> None:
        due = self._machine.next_tick()
        if due == math.inf:
            return
        number = max(tick_behind(self._clock.now), tick_not_before(due))
        if self._tick is None or number < self._tick:
            self._tick = number
            self._clock.at(number / TICKS_PER_S, self._ticked, number)

    def _ticked(self, number: int) -> None:
        if number != self._tick:
            return
        self._tick = None
        self._act(self._machine.tick(self._clock.now))
        self._plan_tick()
