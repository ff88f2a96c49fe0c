"""A door's generations: who runs, what is fed in which step, and what follows from its end.

docs/generation.md tells the whole. Every failure is mended in one way: a session that lacks
positions somewhere is fed its own tokens again from there. So what is known of segments may be
wrong, and nothing is told twice.

| what a step ends with | its sessions |
|---|---|
| drawn tokens | commit them, and go on |
| `stale` with lengths | go back to them; the others run again |
| `stale` without, `lost`, silence, a death | run again |
| a failure | end with it, if alone in the step; else each runs alone once |
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Final

import numpy as np

from dsi_mqtt.core.activation import TOKENS, Row
from dsi_mqtt.core.attempts import (
    BROKEN,
    BROKEN_MAX,
    POISON,
    POISON_AT,
    STALE_FIRST_S,
    STALE_MAX_S,
    GiveUp,
    Retain,
    Settle,
)
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.effects import Effects, ForgetText, PublishPartial, ReadPrompt, WriteText
from dsi_mqtt.core.generation import Ask, Completion
from dsi_mqtt.core.idle import IdleSession, IdleSessions
from dsi_mqtt.core.leases import Living, Roll
from dsi_mqtt.core.line import Request
from dsi_mqtt.core.message import Activation, Failure, Header
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.peers import Member, Peers
from dsi_mqtt.core.promises import Promises
from dsi_mqtt.core.room import MIB, allotted, table_rooms
from dsi_mqtt.core.schedule import Schedule
from dsi_mqtt.core.session import Session, Text
from dsi_mqtt.core.steps import Step, Steps
from dsi_mqtt.core.stops import StopFinder
from dsi_mqtt.core.table import Stamp, Table

# A device that has lost its connection may be back by then.
UNHEARD_S: Final = 2.0
# How often the broker is asked whether anybody hears a stream.
ASK_S: Final = 1.0
# Texts told on one table before their numbers begin again, so that a later table's take is higher.
TAKES: Final = 1 << 20

FULL: Final = Failure("overloaded", "all sessions and places in the queue are taken; try later")
SILENT: Final = Failure("cancelled", "its device has not spoken for alive_s")
UNHEARD: Final = Failure("cancelled", "nobody is subscribed to its answers")
OTHER_MODEL: Final = Failure("unavailable", "the deployment has another model now; ask again")
_NO_TOKENS: Final = Failure("model_failed", "the head drew no tokens")

Conclude = Callable[[Request, Completion, float], Effects]


class Generations:
    """State machine of the sessions of one door.

    numbers: for sessions and steps; none twice in this incarnation of the node.
    give_up, retain, settle: as in `attempts`. conclude: a session has ended well.
    """

    def __init__(
        self,
        door: Member,
        spec: Deployment,
        peers: Peers,
        numbers: Iterator[int],
        *,
        give_up: GiveUp,
        retain: Retain,
        settle: Settle,
        conclude: Conclude,
    ) -> None:
        self._deployment = spec.name
        self._limits = spec.limits
        self._peers = peers
        self._give_up = give_up
        self._retain = retain
        self._settle = settle
        self._conclude = conclude
        self._table: Table | None = None
        self._graph: ModelGraph | None = None
        self._sessions: dict[bytes, Session] = {}
        self._schedule = Schedule()
        self._idle = IdleSessions()
        self._promises = Promises()
        self._steps = Steps(door, numbers)
        self._takes = count(1)
        self._roll = Roll(spec.name, door, numbers)
        self.starting = True
        self.retried = 0

    # --- questions ----------------------------------------------------------------------------

    @property
    def table(self) -> Table | None:
        """What serves."""
        return self._table

    @property
    def in_flight(self) -> int:
        """Sessions that run."""
        return len(self._schedule.running)

    def oldest(self) -> Stamp:
        """The oldest table that a step in the chain uses, or the serving one."""
        used = self._steps.stamps()
        if self._table is not None:
            used.add(self._table.stamp)
        return min(used, default=Stamp(0, "", 0))

    # --- tables, nodes, the model -------------------------------------------------------------

    def spec_changed(self, spec: Deployment) -> None:
        self._limits = spec.limits

    def model_is(self, graph: ModelGraph | None, now: float) -> Effects:
        """How the model looks from the door's node; None: it is not open there."""
        before, self._graph = self._graph, graph
        effects = self._start_over(now) if before not in (None, graph) else []
        if graph is None:
            return effects
        reading = [session for session in self._sessions.values() if session.state == "reading"]
        return [*effects, *(self._read(session) for session in reading), *self.pump(now)]

    def table_changed(self, table: Table, now: float) -> Effects:
        """A new table serves. Steps on the old one go on; new ones use this one."""
        if self._table is None or table.stamp != self._table.stamp:
            for session in self._schedule.running.values():
                session.stale, session.not_before = 0, 0.0
        self._table = table
        return self.peers_changed(now)

    def peers_changed(self, now: float) -> Effects:
        """Ends steps on tables with a dead member; a hint needs a newer table as well."""
        effects: Effects = []
        for step in self._steps:
            used = step.table
            superseded = self._table is not None and used.stamp < self._table.stamp
            if not (self._peers.disproves(used) or (superseded and self._peers.lacks(used))):
                continue
            rows = step.waited_for
            effects += self._steps.drop(step)
            for session, row in rows:
                request = session.request
                request.suspect = True
                request.suspect_to = max(request.suspect_to, row.position + row.tokens)
                request.deaths += step.alone
                effects += self._again(session, now, died=step.alone)
        return [*effects, *self.pump(now)]

    def data_reconnected(self, now: float) -> Effects:
        """What was on the wire may be gone: ask for every step at once."""
        effects, silent = self._steps.probe(now, all_=True)
        return [*effects, *self._break_off(silent, now)]

    # --- a session's beginning ----------------------------------------------------------------

    def join(self, request: Request, now: float) -> Effects:
        """An input was admitted."""
        if len(self._sessions) >= self._limits.sessions_max + self._limits.queue_max:
            return self._give_up(request, FULL, now)
        session = Session(request, redelivered=request.suspect)
        request.state = "waiting"
        self._sessions[request.id] = session
        return [self._read(session)] if self._graph is not None else []

    def prompt_read(self, id_: bytes, ask: Ask, tokens: tuple[int, ...], now: float) -> Effects:
        session = self._sessions.get(id_)
        if session is None or session.state != "reading" or self._graph is None:
            return []
        vocabulary = self._graph.vocabulary
        context = min(self._limits.context, vocabulary.context if vocabulary else 0)
        if len(tokens) >= context:
            sentence = f"the prompt has {len(tokens)} tokens; with room for one more the context"
            failure = Failure("invalid_input", f"{sentence} takes {context - 1}; send less")
            return self._give_up(session.request, failure, now)
        session.ask, session.tokens = ask, list(tokens)
        session.prompt_tokens = len(tokens)
        session.ends = vocabulary.ends if vocabulary else ()
        session.max_tokens = min(ask.max_tokens, context - len(tokens))
        session.sampling = ask.sampling(_seed(session.request))
        if session.request.suspect:
            session.request.suspect_to = max(session.request.suspect_to, len(tokens))
        if ask.alive_s is not None:
            self._promises.made(id_, session.request.given.device, ask.alive_s, now)
        session.text = Text(session, StopFinder(ask.stop))
        self._schedule.wait(session)
        return self.pump(now)

    def prompt_refused(self, id_: bytes, failure: Failure, now: float) -> Effects:
        session = self._sessions.get(id_)
        return self._give_up(session.request, failure, now) if session is not None else []

    def retained(self, request: Request, now: float) -> Effects:
        """Its deaths are retained: it is still its turn."""
        session = self._sessions.get(request.id)
        if session is None or session.state != "recording":
            return []
        self._schedule.line_up(session, first=True)
        return self.pump(now)

    # --- its end ------------------------------------------------------------------------------

    def end(self, request: Request, *, cancel: bool) -> Effects:
        """The request is over. cancel: what of it is in the chain is to be forgotten there."""
        session = self._sessions.pop(request.id, None)
        if session is None:
            return []
        self._promises.over(request.id)
        self._leave(session)
        effects: Effects = [ForgetText(self._deployment, request.id)]
        for step in self._steps if cancel else ():
            if not step.sessions:
                effects += self._steps.drop(step)
        return effects

    def answered(self) -> None:
        """Nothing is measured by answers here."""

    def device_spoke(self, device: str, now: float) -> None:
        self._promises.spoke(device, now)

    def hearing(self, *, hears: bool) -> None:
        self._promises.hearing(hears=hears)

    def repeated(self, request: Request) -> Effects:
        """Its device asks again: it may have missed what was told so far."""
        session = self._sessions.get(request.id)
        if session is None or session.text is None or not (session.ask and session.ask.stream):
            return []
        told = session.text.all_shown()
        return [PublishPartial(self._deployment, request.id, request.given, told)] if told else []

    def text_written(
        self, id_: bytes, tokens: int, text: str, *, last: bool, now: float
    ) -> Effects:
        """The text of `tokens` more tokens; `last`: there are no more."""
        session = self._sessions.get(id_)
        if session is None or session.text is None or session.ask is None:
            return []
        written = session.text
        if last:
            written.came(tokens, "")
            written.ended(text)
        else:
            written.came(tokens, text)
        if written.stops.found:
            session.finish = "stop"
            self._leave(session)
        over = last or written.stops.found
        effects: Effects = []
        partial = written.partial(last=over) if session.ask.stream else None
        if partial is not None:
            ask = now >= session.asked_at + ASK_S
            session.asked_at = now if ask else session.asked_at
            given = session.request.given
            effects.append(PublishPartial(self._deployment, id_, given, partial, ask))
        if not over:
            return effects
        effects += self._conclude(session.request, written.completion(), now)
        return [*effects, *self.pump(now)]

    def partial_taken(self, id_: bytes, now: float, *, heard: bool) -> Effects:
        """The broker has a part of a stream, and says whether anybody is subscribed to it."""
        session = self._sessions.get(id_)
        if session is None or session.state == "ended":
            return []
        if heard:
            session.unheard_since = None
        elif session.unheard_since is None:
            session.unheard_since = now
        elif now - session.unheard_since >= UNHEARD_S:
            return [*self._give_up(session.request, UNHEARD, now), *self.pump(now)]
        return []

    # --- the chain ----------------------------------------------------------------------------

    def done(self, activation: Activation, now: float) -> Effects:
        """A step has come through the chain, or failed in it."""
        step = self._steps.take(activation.header)
        if step is None:
            return []
        failure = activation.header.failure
        drawn = _drawn(activation, len(step.rows)) if failure is None else None
        if drawn is None:
            return [*self._failed(step, failure or _NO_TOKENS, now), *self.pump(now)]
        effects: Effects = []
        texts: Effects = []
        for (session, row), token in zip(step.rows, drawn, strict=True):
            if session.state == "stepping":
                effects += self._stepped(session, row, token, texts, now)
        # The next step goes before the texts: the chain waits for it, and no step for them.
        return [*effects, *self.pump(now), *texts]

    def broke(self, header: Header, now: float) -> Effects:
        """A `lost` or `stale` from the chain."""
        step = self._steps.take(header)
        if step is None:
            return []
        have = {row.session: row.position for row in header.rows}
        effects: Effects = [*step.attempt.cancel()]
        for session in step.sessions:
            if header.kind == "stale" and not have:
                effects += self._wait_for_table(session, step, now)
            elif header.kind == "stale" and session.name not in have:
                self._line_up(session)
            else:
                session.fed = min(session.fed, have.get(session.name, session.fed))
                effects += self._again(session, now)
        return [*effects, *self.pump(now)]

    def alive(self, header: Header, now: float) -> None:
        """Somebody in the chain has the step."""
        self._steps.alive(header, now)

    def tick(self, now: float) -> Effects:
        effects, silent = self._steps.probe(now)
        effects += self._break_off(silent, now)
        for id_ in self._promises.broken(now):
            effects += self._give_up(self._sessions[id_].request, SILENT, now)
        effects += self.pump(now)
        self._roll.changed |= self._idle.expire(now)
        return effects + self._roll.tick(self._living, now)

    def pump(self, now: float) -> Effects:
        """Starts what may run, while there is a chain to run it on."""
        table, graph = self._table, self._graph
        if table is None or table.state != "serving" or not self.starting:
            return []
        if graph is None or table.model is None or table.model.digest != graph.digest:
            return []  # prompts are not read as this chain would; it, or the model here, is older
        if self._peers.lacks(table):
            return []  # it will be replaced, or its node will speak again
        effects: Effects = []
        effects += self._let_in_all(table, graph, now)
        if any(session.state == "recording" for session in self._sessions.values()):
            return effects
        while chosen := self._schedule.choose(self._steps, table, now):
            if chosen[0].request.suspect and not chosen[0].request.recorded:
                return effects + self._record(chosen[0], now)
            effects.append(self._steps.start(table, chosen, now))
        return effects

    # --- parts --------------------------------------------------------------------------------

    def _living(self) -> Living:
        """What nodes are to keep."""
        tables = {step.table.stamp: step.table for step in self._steps}
        if self._table is not None:
            tables[self._table.stamp] = self._table
        rows = [Row(name, session.fed) for name, session in self._schedule.running.items()]
        rows += self._idle.rows()
        # Without its cache one row would make the whole step stale.
        rows += [row for step in self._steps for s, row in step.rows if s.state == "ended"]
        return tuple(rows), tables.values()

    def _start_over(self, now: float) -> Effects:
        """The model is another, or closed: what was read, drawn and cached means nothing now.

        What a device has been shown cannot be taken back; the rest is read anew.
        """
        effects: Effects = []
        for step in self._steps:
            effects += self._steps.drop(step)
        for id_, session in list(self._sessions.items()):
            if session.text is not None and session.text.shown:
                effects += self._give_up(session.request, OTHER_MODEL, now)
            elif session.state != "reading":
                effects += [*self._settle(session.request, now), ForgetText(self._deployment, id_)]
                self._promises.over(id_)
                self._leave(session)
                self._sessions[id_] = Session(session.request, redelivered=session.redelivered)
                session.request.state = "waiting"
        while self._idle.drop_oldest():
            self._roll.changed = True
        return effects

    def _read(self, session: Session) -> ReadPrompt:
        request = session.request
        return ReadPrompt(self._deployment, request.id, request.given.parsed, self._limits)

    def _cached_mib(self, positions: Iterable[int], table: Table, graph: ModelGraph) -> float:
        """What caches of so many positions each take on the node where that is most."""
        context = graph.vocabulary.context if graph.vocabulary else 0
        rooms = [allotted(held, context) for held in positions]
        nodes = table_rooms(graph, table)
        return max((node.nbytes(rooms) for node in nodes), default=0) / MIB

    def _too_large(self, wanted_mib: float) -> Failure:
        return Failure(
            "invalid_input",
            f"prompt and max_tokens would take {wanted_mib:.1f} MiB of cache on a node, "
            f"generation.kv_mib_max is {self._limits.kv_mib_max}; ask for less",
        )

    def _let_in_all(self, table: Table, graph: ModelGraph, now: float) -> Effects:
        """Those whose turn it is, while there is room; what is idle makes room."""
        effects: Effects = []
        waiting, running = self._schedule.waiting, self._schedule.running
        most_mib = self._limits.kv_mib_max
        while waiting and len(running) < self._limits.sessions_max:
            first = waiting[0]
            alone_mib = self._cached_mib([first.room], table, graph)
            if alone_mib > most_mib:
                effects += self._give_up(first.request, self._too_large(alone_mib), now)
                continue
            found = self._idle.best(first.request.given.device, first.tokens)
            reused, common = found or (None, 0)
            first.most = max(first.room, reused.most if reused else 0)
            beside = [session.most for session in running.values()]
            beside += self._idle.sizes(without=reused)
            if self._cached_mib([first.most, *beside], table, graph) <= most_mib:
                self._let_in(waiting.popleft(), table, reused, common)
            elif self._idle.drop_oldest(spare=reused) or self._idle.drop_oldest():
                self._roll.changed = True
            else:
                break
        return effects

    def _let_in(
        self, session: Session, table: Table, reused: IdleSession | None, common: int
    ) -> None:
        """It is its turn, and there is room. reused: its caches hold `common` positions of it."""
        fresh = self._roll.name_next()
        session.name, session.fed = fresh, common
        if reused is not None:
            self._idle.reuse(reused)
            session.name = reused.name
        session.take = table.epoch * TAKES + next(self._takes) % TAKES
        self._schedule.start(session)

    def _record(self, session: Session, now: float) -> Effects:
        self._schedule.record(session)
        return self._retain(session.request, now)

    def _stepped(
        self, session: Session, row: Row, token: int, texts: Effects, now: float
    ) -> Effects:
        """All segments have computed a row; behind the last of its tokens one was drawn.

        texts: gets what is to be written of it.
        """
        draws = session.samples(row)
        if draws and token < 0:
            return self._give_up(session.request, _NO_TOKENS, now)
        session.stepped(row)
        effects: Effects = []
        if session.request.suspect and session.fed >= session.request.suspect_to:
            effects += self._cleared(session, now)
        if draws:
            fresh = (token,) if session.commit(token) else ()
            last = session.finish is not None
            texts.append(WriteText(self._deployment, session.request.id, fresh, last))
        if session.finish is not None:
            self._leave(session)
            self._keep(session, now)
        else:
            # A suspect goes on: that it is in the chain is retained, of it alone.
            self._schedule.line_up(session, first=session.request.suspect)
        return effects

    def _cleared(self, session: Session, now: float) -> Effects:
        """It has passed what it was suspected of.

        Where that is a guess, for its door died at a position that nobody knows, and the next one
        dies as well, then farther on: so twice as far. Else a session that ends each door at a
        late token would never be alone at it.
        """
        request = session.request
        request.suspect, request.deaths = False, 0
        request.suspect_to = 2 * request.suspect_to if session.redelivered else 0
        return self._settle(request, now)

    def _failed(self, step: Step, failure: Failure, now: float) -> Effects:
        """The step of one: its own fault. Of several: who is at fault shows when each is alone."""
        effects: Effects = []
        sessions = step.sessions
        for session in sessions:
            if len(step.rows) == 1:
                effects += self._give_up(session.request, failure, now)
            else:
                session.alone = True
                self._line_up(session)
        return effects

    def _break_off(self, steps: list[Step], now: float) -> Effects:
        """Nobody in the chain knows of them."""
        effects: Effects = []
        for step in steps:
            sessions = step.sessions
            effects += self._steps.drop(step)
            for session in sessions:
                effects += self._again(session, now)
        return [*effects, *self.pump(now)]

    def _again(self, session: Session, now: float, *, died: bool = False) -> Effects:
        """Its step came to nothing: once more, unless that happens all the time.

        died: of a node, and counted; what has a bound of its own spends no other.
        """
        effects = self._settle(session.request, now)
        session.broken += not died
        if session.request.deaths >= POISON_AT:
            return effects + self._give_up(session.request, POISON, now)
        if session.broken >= BROKEN_MAX:
            return effects + self._give_up(session.request, BROKEN, now)
        self._line_up(session)
        return effects

    def _wait_for_table(self, session: Session, step: Step, now: float) -> Effects:
        """A node has left this table, or is behind it. Nothing is broken by that."""
        if self._table is not None and step.table.stamp >= self._table.stamp:
            session.not_before = now + min(STALE_FIRST_S * 2**session.stale, STALE_MAX_S)
            session.stale += 1
        self._line_up(session)
        return self._settle(session.request, now)

    def _line_up(self, session: Session) -> None:
        self.retried += 1
        self._schedule.line_up(session, first=True)

    def _leave(self, session: Session) -> None:
        """It is fed no more, and its caches may go."""
        if self._schedule.leave(session):
            self._roll.changed = True

    def _keep(self, session: Session, now: float) -> None:
        """Its caches are of use for what its device asks next."""
        tokens = tuple(session.tokens[: session.fed])
        device = session.request.given.device
        until = now + self._limits.idle_s
        self._idle.keep(IdleSession(session.name, device, tokens, until, session.most))
        while len(self._idle) > self._limits.sessions_max:
            self._idle.drop_oldest()


def _seed(request: Request) -> int:
    """The same for every telling of one input, so that the text is, too."""
    given = request.given
    told = request.id if given.anonymous else given.key.encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:6], "big")


def _drawn(activation: Activation, rows: int) -> list[int] | None:
    """One token id for each row, negative where none was drawn; None where these are no such."""
    tensors = activation.tensors
    if len(tensors) != 1 or (tensors[0].name, tensors[0].dtype) != (TOKENS, "int64"):
        return None
    drawn: list[int] = np.frombuffer(tensors[0].data, "<i8").tolist()
    return drawn if len(drawn) == rows else None
