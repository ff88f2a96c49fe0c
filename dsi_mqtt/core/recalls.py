"""A door's recalls: what an earlier door had drawn of its texts, asked of the chain's nodes.

    wanted ──(a table serves: its nodes are asked)──► asked ──(all answer, or time is up)──► waiting

The head of the chain knows (`drawn`). It may be another by now, so all nodes are asked, and the
longest answer counts; who knows nothing says so. Who does not answer may not have the table yet,
and is asked again. What is known is committed, so the text goes on behind it. Without an answer it
is drawn from the start: a recall costs a moment at worst.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.drawn import as_tensor, first_and_tokens
from dsi_mqtt.core.effects import Effects, Transmit, WriteText
from dsi_mqtt.core.leases import one_each
from dsi_mqtt.core.message import Activation, Header, of_state
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.peers import Member
from dsi_mqtt.core.places import Places
from dsi_mqtt.core.schedule import Schedule
from dsi_mqtt.core.session import Session
from dsi_mqtt.core.steps import attempt_id
from dsi_mqtt.core.table import Replica, Table

PATIENCE_S: Final = 1.0
AGAIN_S: Final = 0.1


@dataclass(slots=True, eq=False)
class _Recall:
    """awaited: questions without an answer. told: the longest answer that follows its prompt."""

    session: Session
    until: float
    again_at: float
    awaited: dict[bytes, Transmit] = field(default_factory=dict)
    told: tuple[int, ...] = ()

    def is_over(self, now: float) -> bool:
        return not self.awaited or now >= self.until


class Recalls:
    """model: as nodes call it. numbers: of questions, unlike those of steps."""

    def __init__(
        self,
        model: str,
        door: Member,
        numbers: Iterator[int],
        schedule: Schedule,
        places: Places,
    ) -> None:
        self._model = model
        self._door = door
        self._numbers = numbers
        self._schedule = schedule
        self._places = places
        self._wanted: list[Session] = []
        self._asked: list[_Recall] = []

    def wants(self, session: Session) -> None:
        """Its prompt is read, and an earlier door may have told a part of its text."""
        session.state = "recalling"
        self._wanted.append(session)

    def came(self, activation: Activation) -> bool:
        """Whether this is an answer."""
        id_ = activation.header.request
        for recall in self._asked:
            if recall.awaited.pop(id_, None) is not None:
                told = _told(activation, recall.session.prompt_tokens)
                recall.told = max(recall.told, told, key=len)
                return True
        return False

    def pump(self, table: Table, graph: ModelGraph, now: float) -> Effects:
        """`table` serves: asks its nodes, and lines up those of whom nothing more is to come."""
        effects: Effects = []
        for session in self._wanted:
            if session.state == "recalling":
                effects += self._ask(session, table, now)
        self._wanted.clear()
        for recall in list(self._asked):
            if recall.session.state != "recalling":
                self._asked.remove(recall)
            elif recall.is_over(now):
                self._asked.remove(recall)
                effects += self._resume(recall, table, graph)
            elif recall.again_at <= now:
                recall.again_at = now + AGAIN_S
                effects += recall.awaited.values()
        return effects

    def _ask(self, session: Session, table: Table, now: float) -> Effects:
        recall = _Recall(session, now + PATIENCE_S, now + AGAIN_S)
        self._asked.append(recall)
        for used, segment, replica in one_each([table]):
            id_ = attempt_id(self._door, next(self._numbers))
            header = self._header(used, segment, replica, session.sampling.text)
            recall.awaited[id_] = Transmit(replica.node, Activation(replace(header, request=id_)))
        return list(recall.awaited.values())

    def _resume(self, recall: _Recall, table: Table, graph: ModelGraph) -> Effects:
        """It goes on behind what was told, if it can be: token ids of no model end nothing."""
        session, told = recall.session, recall.told
        size = graph.vocabulary.size if graph.vocabulary is not None else 0
        if not all(0 <= token < size for token in told):
            told = ()
        text = session.resumes(told, self._places.next_take(table))
        over = session.finish is not None
        if over:
            self._schedule.leave(session)
        else:
            self._schedule.wait(session)
        return [WriteText(self._model, session.request.id, text, over)] if told else []

    def tell(self, session: Session, table: Table) -> Effects:
        """A step of it starts: a head that is new to it is told what was drawn before."""
        last = table.segments[-1]
        head = last.replica(session.lane)
        before, session.head = session.head, (head.node, head.incarnation)
        if session.head == before or not session.generated:
            return []
        header = self._header(table, last.id, head, session.sampling.text)
        row = Row("", session.prompt_tokens, session.generated, session.take)
        tokens = as_tensor(array("q", session.tokens[session.prompt_tokens :]))
        return [Transmit(head.node, Activation(replace(header, rows=(row,)), (tokens,)))]

    def _header(self, table: Table, segment: str, replica: Replica, text: bytes) -> Header:
        header = of_state(self._model, table.stamp, segment, self._door, replica.incarnation)
        return replace(header, recall=text)


def _told(activation: Activation, first: int) -> tuple[int, ...]:
    """The tokens of an answer, where they are from position `first` on."""
    told = first_and_tokens(activation.header.rows, activation.tensors)
    return tuple(told[1]) if told is not None and told[0] == first else ()
