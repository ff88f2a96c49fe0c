"""Devices that ask: the machine of the project's client, beside the broker."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from dsi_mqtt.core.client import Abandon, ClientEffects, PendingInputs, SendInput
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.generation import Completion, Partial
from dsi_mqtt.core.request import Reply
from dsi_mqtt.sim.broker import Broker, Delivery
from dsi_mqtt.sim.clock import TICKS_PER_S, Clock, tick_behind, tick_not_before
from dsi_mqtt.sim.connecting import Tries
from dsi_mqtt.sim.texts import Wanted

# A client waits longer than its door may take, or an answer could be on its way.
WAITS_BEYOND_S: Final = 15.0
# For so long the broker keeps the MQTT session of a client that is away (`client/delivery.py`).
SESSION_S: Final = 10.0


@dataclass(slots=True)
class Answers:
    """What came of the inputs. latencies_s: of results, from the broker to the broker.

    asked_at: when each of those was asked. failed_at: when those were that have no result.
    Of generations: first_s, to the first token; token_s, the mean time between tokens behind it;
    pause_s, the longest between two; tokens, of all results; wrong: results that are not the text
    which was to be drawn, to its end.
    """

    asked: int = 0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    asked_at: array[float] = field(default_factory=lambda: array("d"))
    failed_at: array[float] = field(default_factory=lambda: array("d"))
    first_s: array[float] = field(default_factory=lambda: array("d"))
    token_s: array[float] = field(default_factory=lambda: array("d"))
    pause_s: array[float] = field(default_factory=lambda: array("d"))
    tokens: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0
    repeated: int = 0

    @property
    def settled(self) -> int:
        return len(self.latencies_s) + self.errors.total() + self.abandoned


@dataclass(frozen=True, slots=True)
class Stream:
    """Inputs of so many bytes for one deployment. times: when they come. wanted: of a generation,
    what the next is asked for; its model has `vocabulary` tokens.
    """

    spec: Deployment
    nbytes: int
    times: Iterator[float]
    wanted: Callable[[], Wanted] | None = None
    vocabulary: int = 0


@dataclass(slots=True)
class _Asked:
    """at: when. first_at, last_at: of the tokens that have come; known: how many."""

    at: float
    wanted: Wanted | None
    first_at: float | None = None
    last_at: float = 0.0
    known: int = 0
    pause_s: float = 0.0


class Device:
    """One client, with the inputs of one stream."""

    def __init__(
        self,
        name: str,
        stream: Stream,
        answers: Answers,
        *,
        clock: Clock,
        broker: Broker,
        random: Random,
    ) -> None:
        self.name = name
        self.answers = answers
        self._stream = stream
        self._clock = clock
        self._broker = broker
        self._journal = broker.journal
        self._machine = PendingInputs()
        self._machine.connected(0.0)
        self._connected = True
        self._tries = Tries(random)
        # Until when the broker keeps what comes for it, and what it has kept.
        self._kept_until = 0.0
        self._missed: list[Reply] = []
        self._sent: dict[bytes, _Asked] = {}
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
        wanted = self._stream.wanted() if self._stream.wanted is not None else None
        self._sent[id_] = _Asked(now, wanted)
        self.answers.asked += 1
        deadline = now + self._stream.spec.deadline_s + WAITS_BEYOND_S
        self._act(self._machine.submitted(id_, deadline, now))
        self._plan_tick()
        self._await_next()

    # --- its connection -----------------------------------------------------------------------

    def broker_gone(self, *, forgets: bool) -> None:
        if forgets:
            self._kept_until = 0.0
            self._missed.clear()
        if not self._connected:
            return
        now = self._clock.now
        if not forgets:
            self._kept_until = now + SESSION_S
        self._connected = False
        self._machine.disconnected()
        self._clock.after(self._tries.wait_s(now), self._connect)

    def _connect(self) -> None:
        now = self._clock.now
        if not self._broker.is_there("control"):
            self._clock.after(self._tries.wait_s(now), self._connect)
            return
        self._tries.connected(now)
        self._connected = True
        missed, self._missed = self._missed, []
        for reply in missed if now <= self._kept_until else ():
            self.answered(reply)
        self._act(self._machine.connected(now))
        self._plan_tick()

    # --- what comes ---------------------------------------------------------------------------

    def answered(self, reply: Reply) -> None:
        if not self._connected:
            self._missed += [reply] if self._clock.now <= self._kept_until else []
            return
        id_ = reply.correlation
        if id_ is None or not self._machine.answered(id_):
            self.answers.repeated += 1
            return
        sent = self._sent.pop(id_)
        took = self._clock.now - sent.at
        if reply.failure is None:
            self.answers.latencies_s.append(took)
            self.answers.asked_at.append(sent.at)
            if reply.completion is not None and sent.wanted is not None:
                self._completed(sent, sent.wanted, reply.completion)
        else:
            self.answers.failed_at.append(sent.at)
            self.answers.errors[reply.failure.code] += 1
        outcome = reply.failure.code if reply.failure else "ok"
        self._tell(id_, outcome, took)

    def told(self, correlation: bytes, part: Partial) -> None:
        """Tokens of a stream. What a door tells once more is not news."""
        asked = self._sent.get(correlation)
        if asked is not None and self._connected:
            self._machine.heard(correlation, self._clock.now)
            self._known(asked, part.index + len(part.tokens))

    def _known(self, asked: _Asked, tokens: int) -> None:
        now = self._clock.now
        if tokens <= asked.known:
            return
        if asked.first_at is None:
            asked.first_at = now
        else:
            asked.pause_s = max(asked.pause_s, now - asked.last_at)
        asked.known, asked.last_at = tokens, now

    def _completed(self, asked: _Asked, wanted: Wanted, completion: Completion) -> None:
        answers, count = self.answers, len(completion.tokens)
        self._known(asked, count)
        answers.tokens += count
        size = self._stream.vocabulary
        right = tuple(wanted.token(index, size) for index in range(count))
        ended = completion.finish_reason == "stop" or count == wanted.new_tokens
        answers.wrong += completion.tokens != right or not ended
        if asked.first_at is not None:
            answers.first_s.append(asked.first_at - asked.at)
            if count > 1:
                answers.token_s.append((asked.last_at - asked.first_at) / (count - 1))
                answers.pause_s.append(asked.pause_s)

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
                wanted = self._sent[effect.id].wanted
                nbytes = self._stream.nbytes if wanted is None else wanted.nbytes
                delivery = Delivery(effect.id, self.name, nbytes, wanted=wanted)
                self._broker.publish_input(self._stream.spec.name, delivery)
            elif isinstance(effect, Abandon):
                sent = self._sent.pop(effect.id)
                self.answers.abandoned += 1
                self.answers.failed_at.append(sent.at)
                self._tell(effect.id, "abandoned", self._clock.now - sent.at)

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
