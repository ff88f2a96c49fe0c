"""Control messages as events of the node's state machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.node import Desired
from dsi_mqtt.transport.base import Message
from dsi_mqtt.wire.topics import Topic, Topics, check_document, check_topic_name

NONCE: Final = b"nonce:"
# To oneself, behind all subscriptions: it comes back behind everything that is retained.
READ: Final = b"all that is retained came before"

Parts = dict[str, str]
Read = Callable[[Parts, bytes], ev.Event | None]


class ControlReader:
    """Knows what a node listens to, and what each message means. An empty payload is a removal."""

    def __init__(self, topics: Topics, node: str) -> None:
        self._topics = topics
        self._node = node
        self._readers: tuple[tuple[Topic[Any], Read], ...] = (
            (topics.status, self._status),
            (topics.spec, self._spec),
            (topics.table, self._table),
            (topics.desired, self._desired),
            (topics.echo, self._echo),
        )

    def filters(self) -> tuple[str, ...]:
        topics = self._topics
        return (
            topics.status.filter(),
            topics.spec.filter(),
            topics.table.filter(),
            topics.desired.name(node=self._node),
            topics.echo.name(node=self._node),
        )

    def event(self, message: Message) -> ev.Event | None:
        """Raises WireError when the payload is not what its topic promises."""
        for topic, read in self._readers:
            parts = topic.parts(message.topic)
            if parts is not None:
                return read(parts, bytes(message.payload))
        return None

    def _status(self, parts: Parts, payload: bytes) -> ev.Event:
        if not payload:
            return ev.StatusRemoved(parts["node"])
        status = self._topics.status.payload.decode(payload)
        check_topic_name(status.node, parts["node"])
        return ev.StatusArrived(status)

    def _spec(self, parts: Parts, payload: bytes) -> ev.Event:
        if not payload:
            return ev.SpecGone(parts["deployment"])
        spec = self._topics.spec.payload.decode(payload)
        check_topic_name(spec.name, parts["deployment"])
        return ev.SpecArrived(spec)

    def _table(self, parts: Parts, payload: bytes) -> ev.Event | None:
        if not payload:
            return None
        document = self._topics.table.payload.decode(payload)
        check_document(document, parts["deployment"])
        return ev.TableArrived(parts["deployment"], document)

    def _desired(self, _parts: Parts, payload: bytes) -> ev.Event:
        desired = self._topics.desired.payload.decode(payload) if payload else Desired()
        return ev.DesiredArrived(desired)

    def _echo(self, _parts: Parts, payload: bytes) -> ev.Event | None:
        if payload == READ:
            return ev.RetainedRead()
        if not payload.startswith(NONCE):
            return None
        return ev.NonceReturned(payload.removeprefix(NONCE).decode(errors="replace"))
