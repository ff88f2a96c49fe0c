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

When another table serves, sessions stay on theirs until their caches are copied: see `copies`. All
of them are of one model; who goes from a deployment's own to its fallback, and back, is told in
`two_models`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.copies import Copies
from dsi_mqtt.core.deployment import FALLBACK_MARK, Deployment
from dsi_mqtt.core.effects import (
    EchoHearing,
    Effects,
    ForgetText,
    PublishPartial,
    ReadPrompt,
    WriteText,
)
from dsi_mqtt.core.entrance import Entrance
from dsi_mqtt.core.events import PartialTaken, PromptRead, PromptRefused, TextWritten
from dsi_mqtt.core.leases import Living, Roll
from dsi_mqtt.core.line import Request
from dsi_mqtt.core.message import Activation, Failure, Header
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.peers import Member, Peers
from dsi_mqtt.core.places import Places
from dsi_mqtt.core.promises import Promises
from dsi_mqtt.core.recalls import Recalls
from dsi_mqtt.core.recovery import Recovery
from dsi_mqtt.core.request import Reply
from dsi_mqtt.core.runs import Calls, Runs, TextEvent
from dsi_mqtt.core.schedule import Schedule
from dsi_mqtt.core.session import Session
from dsi_mqtt.core.steps import Step, Steps
from dsi_mqtt.core.table import Stamp, Table

SILENT: Final = Failure("cancelled", "its device has not spoken for alive_s")
UNHEARD: Final = Failure("cancelled", "nobody is subscribed to its answers")
OTHER_MODEL: Final = Failure("unavailable", "the deployment has another model now; ask again")
_NO_TOKENS: Final = Failure("model_failed", "the head drew no tokens")


class Generations(Runs):
    """State machine of the sessions of one model at one door; see `Runs`.

    numbers: for sessions and steps; none twice in this incarnation of the node. fallback: the model
    is not the deployment's own.
    """

    def __init__(
        self,
        door: Member,
        spec: Deployment,
        peers: Peers,
        numbers: Iterator[int],
        calls: Calls,
        *,
        fallback: bool = False,
    ) -> None:
        self._deployment = spec.name
        self._model = spec.name + FALLBACK_MARK if fallback else spec.name
        self._fallback = fallback
        self._limits = spec.limits
        self._peers = peers
        self._calls = calls
        self._table: Table | None = None
        self._graph: ModelGraph | None = None
        self._sessions: dict[bytes, Session] = {}
        self._schedule = Schedule()
        self._promises = Promises()
        self._steps = Steps(door, numbers)
        self._roll = Roll(self._model, door, numbers)
        self._entrance = Entrance(spec.limits, self._schedule, self._promises, calls)
        self._places = Places(spec.limits, self._schedule, self._roll, self._entrance, calls)
        self._copies = Copies(door, numbers, self._schedule)
        self._recovery = Recovery(self._schedule, self._copies, calls)
        self._recalls = Recalls(self._model, door, numbers, self._schedule, self._places)
        self.starting = True

    # --- questions ----------------------------------------------------------------------------

    @property
    def table(self) -> Table | None:
        return self._table

    @property
    def retried(self) -> int:
        return self._recovery.retried

    @property
    def beside(self) -> bool:
        return self._steps.beside

    @beside.setter
    def beside(self, beside: bool) -> None:
        self._steps.beside = beside

    @property
    def in_flight(self) -> int:
        return len(self._schedule.running)

    def is_recording(self, request: Request) -> bool:
        session = self._sessions.get(request.id)
        return session is not None and session.state == "recording"

    def may_be_left(self, request: Request) -> bool:  # noqa: ARG002 - all go on by starting steps
        return True

    def has_begun(self, request: Request) -> bool:
        session = self._sessions.get(request.id)
        return session is not None and session.name in self._schedule.running

    def has(self, request: bytes) -> bool:
        return request in self._sessions

    def oldest(self) -> Stamp:
        used = self._steps.stamps() | self._copies.stamps()
        if self._table is not None:
            used.add(self._table.stamp)
        return min(used, default=Stamp(0, "", 0))

    # --- tables, nodes, the model -------------------------------------------------------------

    def spec_changed(self, spec: Deployment) -> None:
        self._limits = self._entrance.limits = spec.limits
        self._places.limits_are(spec.limits)

    def model_is(
        self,
        graph: ModelGraph | None,
        now: float,
        *,
        fallback: bool = False,  # noqa: ARG002 - it is always the same
    ) -> Effects:
        before, self._graph = self._graph, graph
        effects = self._start_over(now) if before not in (None, graph) else []
        if graph is None:
            return effects
        reading = [session for session in self._sessions.values() if session.state == "reading"]
        return [*effects, *(self._read(session) for session in reading), *self.pump(now)]

    def table_changed(self, table: Table, now: float) -> Effects:
        if self._table is None or table.stamp != self._table.stamp:
            for session in self._schedule.running.values():
                session.stale, session.not_before = 0, 0.0
            self._entrance.pace.clear()
            self._copies.table_changed(table)
        self._table = table
        effects = self._mourned(now)
        asked, silent = self._steps.left(table, now)
        return [*effects, *asked, *self._break_off(silent, now), *self.pump(now)]

    def peers_changed(self, now: float) -> Effects:
        return [*self._mourned(now), *self.pump(now)]

    def _mourned(self, now: float) -> Effects:
        """Nodes are dead, by proof or hint, or gone, as the table says."""
        effects: Effects = []
        for step in self._steps:
            used = step.table
            superseded = self._table is not None and used.stamp < self._table.stamp
            if not (self._peers.disproves(used) or (superseded and self._peers.lacks(used))):
                continue
            rows = step.waited_for
            effects += self._steps.drop(step)
            for session, row in rows:
                effects += self._recovery.died(session, row, now, alone=step.alone)
            self._entrance.pace.interrupted()
        self._copies.give_up_on({t.stamp for t in self._copies.tables() if self._lacks(t)})
        return effects

    def _lacks(self, used: Table) -> bool:
        """Whether a node of it has died, as far as anybody has said."""
        return self._peers.lacks(used) or (self._table is not None and self._table.lost(used))

    def data_reconnected(self, now: float) -> Effects:
        effects, silent = self._steps.probe(now, all_=True)
        return [*effects, *self._break_off(silent, now), *self.pump(now)]

    # --- a session's beginning ----------------------------------------------------------------

    def join(self, request: Request, now: float) -> Effects:
        session = Session(request, redelivered=request.suspect, fallback=self._fallback)
        self._sessions[request.id] = session
        effects = self._entrance.came(request, len(self._sessions), now)
        if request.id not in self._sessions or self._graph is None:
            return effects
        return [*effects, self._read(session)]

    def text_event(self, event: TextEvent, now: float) -> Effects:
        session = self._sessions.get(event.request)
        if session is None:
            return []
        match event:
            case PromptRead():
                return self._prompt_read(session, event, now)
            case PromptRefused():
                return self._calls.give_up(session.request, event.failure, now)
            case TextWritten():
                return self._text_written(session, event, now)
            case PartialTaken():
                return self._partial_taken(session, now, heard=event.heard)

    def _prompt_read(self, session: Session, event: PromptRead, now: float) -> Effects:
        graph = self._graph
        if session.state != "reading" or graph is None:
            return []
        ask, tokens = event.ask, event.tokens
        effects = self._entrance.prompt_read(session, ask, tokens, graph, now)
        if session.state == "reading":  # it has not been refused
            begun = session.redelivered or session.request.given.duplicate
            (self._recalls.wants if begun else self._schedule.wait)(session)
        return [*effects, *self.pump(now)]

    def retained(self, request: Request, now: float) -> Effects:
        session = self._sessions.get(request.id)
        if session is None or session.state != "recording":
            return []
        self._schedule.line_up(session, first=True)
        return self.pump(now)

    # --- its end ------------------------------------------------------------------------------

    def end(self, request: Request, now: float, *, cancel: bool) -> Effects:
        session = self._sessions.pop(request.id, None)
        if session is None:
            return []
        self._promises.over(request.id)
        self._entrance.begun(request)
        self._leave(session, now)
        effects: Effects = [ForgetText(self._model, request.id)]
        for step in self._steps if cancel else ():
            if not step.sessions:
                effects += self._steps.drop(step)
        return effects

    def hand_over(self, now: float, *, running: bool) -> tuple[Effects, list[Request]]:
        """The deployment's other model serves: who has been told nothing leaves, to begin anew
        there; who has been told a part of a text ends. running: those that run as well.
        """
        effects: Effects = []
        left: list[Request] = []
        for session in list(self._sessions.values()):
            request = session.request
            unbegun = session.state in ("reading", "recalling", "waiting")
            if session.state == "ended" or not (running or unbegun):
                continue
            if session.is_told:
                effects += self._calls.give_up(request, OTHER_MODEL, now)
            else:
                effects += self._calls.settle(request, now)
                effects += self.end(request, now, cancel=True)
                left.append(request)
        if running:
            self._places.clear()
            self._entrance.pace.clear()
        return effects, left

    def earn(self) -> None:
        """Nothing is measured by answers here."""

    def device_spoke(self, device: str, now: float) -> None:
        self._promises.spoke(device, now)

    def hearing(self, *, hears: bool) -> None:
        self._promises.hearing(hears=hears)

    def hearing_proven(self, asked_at: float, now: float) -> None:
        self._promises.proven(asked_at, now)

    def repeated(self, request: Request) -> Effects:
        session = self._sessions.get(request.id)
        if session is None or session.text is None or not (session.ask and session.ask.stream):
            return []
        told = session.text.all_shown()
        return [PublishPartial(self._deployment, request.id, request.given, told)] if told else []

    def _text_written(self, session: Session, event: TextWritten, now: float) -> Effects:
        if session.text is None or session.ask is None:
            return []
        written = session.text
        written.came(event.tokens, "" if event.last else event.text)
        if event.last:
            written.ended(event.text)
        if written.stops.found:
            session.finish = "stop"
            self._leave(session, now)
        over = event.last or written.stops.found
        effects: Effects = []
        partial = written.partial(last=over) if session.ask.stream else None
        if partial is not None:
            request, ask = session.request, session.asks(now)
            effects.append(
                PublishPartial(self._deployment, request.id, request.given, partial, ask)
            )
        if not over:
            return effects
        effects += self.end(session.request, now, cancel=False)
        self._calls.told(session.prompt_tokens, session.generated)
        reply = Reply.completed(session.request.given, written.completion())
        return [*effects, *self._calls.conclude(session.request, reply, now), *self.pump(now)]

    def _partial_taken(self, session: Session, now: float, *, heard: bool) -> Effects:
        """The broker has a part of a stream, and says whether anybody is subscribed to it."""
        if session.state == "ended":
            return []
        if session.is_unheard(now, heard=heard):
            return [*self._calls.give_up(session.request, UNHEARD, now), *self.pump(now)]
        return []

    # --- the chain ----------------------------------------------------------------------------

    def done(self, activation: Activation, now: float) -> Effects:
        """A step has come through the chain, or failed in it; or a copy has been made."""
        if self._copies.came(activation.header, now) or self._recalls.came(activation):
            return self.pump(now)
        step = self._steps.ended(activation.header)
        if step is None:
            return []
        failure = activation.header.failure
        drawn = step.drawn(activation) if failure is None else None
        if drawn is None:
            effects = self._recovery.failed(step, failure or _NO_TOKENS, now)
            self._entrance.pace.interrupted()
            return [*effects, *self.pump(now)]
        self._schedule.passed(step, now)
        if step.is_decode:
            self._calls.timed(now - step.started)
        effects = []
        texts: Effects = []
        for (session, row), token in zip(step.rows, drawn, strict=True):
            if session.state == "stepping":
                effects += self._stepped(session, row, token, texts, now)
        # The next step goes before the texts: the chain waits for it, and no step for them.
        return [*effects, *self.pump(now), *texts]

    def broke(self, header: Header, now: float) -> Effects:
        if self._copies.came(header, now):
            return self.pump(now)
        step = self._steps.ended(header)
        if step is None:
            return []
        have = {row.session: row.position for row in header.rows}
        effects: Effects = [*step.attempt.cancel()]
        for session in step.sessions:
            if header.kind == "stale" and not have:
                newest = self._table is None or step.table.stamp >= self._table.stamp
                effects += self._recovery.refused(session, now, newest=newest)
            elif header.kind == "stale" and session.name not in have:
                self._recovery.line_up(session)
            else:
                session.fed = min(session.fed, have.get(session.name, session.fed))
                effects += self._recovery.again(session, now)
        self._entrance.pace.interrupted()
        return [*effects, *self.pump(now)]

    def alive(self, header: Header, now: float) -> None:
        self._steps.alive(header, now)

    def tick(self, now: float) -> Effects:
        effects, silent = self._steps.probe(now)
        effects += self._break_off(silent, now)
        for id_ in self._promises.broken(now):
            effects += self._calls.give_up(self._sessions[id_].request, SILENT, now)
        if self._promises.asks(now):
            effects.append(EchoHearing(self._deployment, now))
        effects += self.pump(now)
        self._places.expire(now)
        return effects + self._roll.tick(self._living, now)

    def next_tick(self) -> float:
        """At every tick: what the depth and the roll do is a matter of time."""
        return -math.inf

    def pump(self, now: float) -> Effects:
        table, graph = self._table, self._graph
        if table is None or not table.serves or not self.starting:
            return []
        if graph is None or table.model is None or table.model.digest != graph.digest:
            return []  # prompts are not read as this chain would; it, or the model here, is older
        if self._peers.lacks(table):
            self._entrance.pace.interrupted()
            return []  # it will be replaced, or its node will speak again
        effects = self._recalls.pump(table, graph, now)
        effects += self._places.let_in_all(table, graph, now)
        if any(session.state == "recording" for session in self._sessions.values()):
            return effects
        effects += self._move_on(table, graph, now)
        while chosen := self._schedule.choose(self._steps, table, now):
            if chosen[0].request.suspect and not chosen[0].request.recorded:
                self._entrance.pace.interrupted()  # what comes is of a chain that it has to itself
                return effects + self._recovery.record(chosen[0], now)
            used = chosen[0].table or table
            effects += [told for session in chosen for told in self._recalls.tell(session, used)]
            effects.append(self._steps.start(used, chosen, now))
        return effects

    # --- parts --------------------------------------------------------------------------------

    def _move_on(self, table: Table, graph: ModelGraph, now: float) -> Effects:
        """Who is due goes over to the table that serves, at once or with its caches."""

        def go_over() -> None:
            for session in list(self._schedule.due):
                used = session.table
                if used is not None and used.stamp != table.stamp:
                    # On a chain that lacks a node it would be taken for what ended that.
                    whole = not self._lacks(used)
                    self._copies.go_over(session, table, graph, now, whole=whole)

        go_over()
        effects = self._copies.pump(now)
        go_over()  # those that were given up just now
        return effects

    def _living(self) -> Living:
        """What nodes are to keep."""
        tables = {table.stamp: table for table in self._copies.tables()}
        tables |= {step.table.stamp: step.table for step in self._steps}
        if self._table is not None:
            tables[self._table.stamp] = self._table
        running = self._schedule.running
        rows = [Row(name, session.fed, 1, session.take) for name, session in running.items()]
        rows += self._places.rows()
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
            if session.is_told:
                effects += self._calls.give_up(session.request, OTHER_MODEL, now)
            elif session.state != "reading":
                effects += [
                    *self._calls.settle(session.request, now),
                    ForgetText(self._model, id_),
                ]
                self._promises.over(id_)
                self._leave(session, now)
                self._entrance.begins_anew(session.request)
                self._sessions[id_] = Session(
                    session.request, redelivered=session.redelivered, fallback=self._fallback
                )
        self._places.clear()
        self._entrance.pace.clear()
        return effects

    def _read(self, session: Session) -> ReadPrompt:
        request = session.request
        return ReadPrompt(self._model, request.id, request.given.parsed, self._limits)

    def _stepped(
        self, session: Session, row: Row, token: int, texts: Effects, now: float
    ) -> Effects:
        """All segments have computed a row; behind the last of its tokens one was drawn.

        texts: gets what is to be written of it.
        """
        draws = session.samples(row)
        if draws and token < 0:
            return self._calls.give_up(session.request, _NO_TOKENS, now)
        session.stepped(row)
        effects: Effects = []
        if session.request.suspect and session.fed >= session.request.suspect_to:
            effects += self._recovery.passed(session, now)
        if draws:
            if not session.generated:
                self._calls.began(session.request, now)
            fresh = (token,) if session.commit(token) else ()
            last = session.finish is not None
            texts.append(WriteText(self._model, session.request.id, fresh, last))
        if session.finish is not None:
            self._leave(session, now)
            self._places.keep(session, now)
        else:
            # A suspect goes on: that it is in the chain is retained, of it alone.
            self._schedule.line_up(session, first=session.request.suspect)
        return effects

    def _break_off(self, steps: list[Step], now: float) -> Effects:
        """Nobody in the chain knows of them."""
        effects: Effects = []
        for step in steps:
            sessions = step.sessions
            effects += self._steps.drop(step)
            for session in sessions:
                effects += self._recovery.again(session, now)
            self._entrance.pace.interrupted()
        return effects

    def _leave(self, session: Session, now: float) -> None:
        """It is fed no more, and its caches may go."""
        self._copies.forget(session)
        if self._schedule.leave(session):
            self._roll.changed = True
            self._entrance.freed(now)
