"""The activation port: activations out of and into one node, over its data connection.

Small messages are written at once; large ones go out chunk by chunk from one task, so that the
socket's back-pressure is felt and chunks of one edge keep their order. Copies of caches go when
nothing else waits, and whatever comes meanwhile passes between their chunks; one that its door
waits for no longer ends where it is (`core/outgoing.py`). What is sent while the connection is away
is lost, as on any QoS 0 edge: the door finds out by its probes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from dsi_mqtt.core.effects import Transmit
from dsi_mqtt.core.link import LinkMeter
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.outgoing import OutgoingCopies
from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.errors import ConnectionLostError, WireError
from dsi_mqtt.transport.base import DataConnection, Message
from dsi_mqtt.wire.activation import (
    CHUNK_BYTES,
    Assembler,
    BrokenActivationError,
    encode,
)
from dsi_mqtt.wire.topics import Topics

log = logging.getLogger(__name__)

INLINE_MAX: Final = 64 * KIB
UNFINISHED_S: Final = 10.0
NAMES_MAX: Final = 1024

Behind = Callable[[DataConnection, int, float], object]


class ActivationPort:
    """Sends and receives activations of one node.

    arrived, broke: called on the event loop for each activation and for each that cannot be
    completed; with `broke` the header says which attempt it was. unreadable: messages so far that
    have no header to say it. link: what is told of all that goes out and comes in.
    behind: called when an activation was written, with its bytes and when the first of them were.
    """

    def __init__(
        self,
        node: str,
        topics: Topics,
        *,
        arrived: Callable[[Activation], None],
        broke: Callable[[Header], None],
        clock: Callable[[], float],
        link: LinkMeter | None = None,
        behind: Behind = lambda *_: None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._link = LinkMeter() if link is None else link
        self._behind = behind
        self._node = node
        self._topics = topics
        self._arrived = arrived
        self._broke = broke
        self._clock = clock
        self._chunk_bytes = chunk_bytes
        self._assembler = Assembler()
        self._names: dict[tuple[str, str, str], str] = {}
        self._connection: DataConnection | None = None
        self._waiting: deque[tuple[str, Activation]] = deque()
        self._copies = OutgoingCopies()
        # The chunks of one that are left, and when its door waits no longer.
        self._copying: tuple[Iterator[Message], float] | None = None
        self._wake = asyncio.Event()
        self.unreadable = 0

    @property
    def topic_filter(self) -> str:
        """What this node's data connection subscribes to."""
        return self._topics.activation.filter(receiver=self._node)

    def attach(self, connection: DataConnection) -> None:
        self._connection = connection

    def detach(self) -> None:
        """The connection is gone, and with it what was half sent or half received."""
        self._connection = None
        self._waiting.clear()
        self._copies.clear()
        self._copying = None
        for header in self._assembler.clear():
            self._broke(header)

    def send(self, receiver: str, activation: Activation) -> None:
        """Sends to another node. Never blocks, never raises."""
        connection = self._connection
        if connection is None:
            return
        header = activation.header
        if header.copy is not None and activation.tensors:
            for told in self._copies.put(Transmit(receiver, activation), self._clock()):
                self.send(told.receiver, told.activation)
            self._wake.set()
            return
        topic = self._name(receiver, header)
        if not self._waiting and activation.nbytes <= INLINE_MAX:
            try:
                for payload in encode(activation, chunk_bytes=self._chunk_bytes):
                    self._write(connection, Message(topic, payload))
                self._behind(connection, activation.nbytes, self._clock())
            except ConnectionLostError:
                log.debug("lost with the connection: %s for %s", header.kind, receiver)
            return
        self._waiting.append((topic, activation))
        self._wake.set()

    def _name(self, receiver: str, header: Header) -> str:
        """Of the topic."""
        key = (receiver, header.deployment, header.kind)
        topic = self._names.get(key)
        if topic is None:
            if len(self._names) >= NAMES_MAX:
                self._names.clear()  # a sender of nonsense chooses whom we answer
            topic = self._names[key] = self._topics.activation.name(
                receiver=receiver,
                sender=self._node,
                deployment=header.deployment,
                kind=header.kind,
            )
        return topic

    async def send_waiting(self, connection: DataConnection) -> None:
        """Runs while `connection` lives: writes large activations as the socket takes them."""
        while True:
            await self._wake.wait()
            while self._waiting or self._copying or self._copies:
                if not self._waiting:
                    await self._write_copy(connection)
                    continue
                topic, activation = self._waiting[0]
                began = self._clock()
                for payload in encode(activation, chunk_bytes=self._chunk_bytes):
                    await self._write_drained(connection, Message(topic, payload))
                self._behind(connection, activation.nbytes, began)
                self._waiting.popleft()
            self._link.emptied()
            self._wake.clear()

    async def _write_copy(self, connection: DataConnection) -> None:
        """The next chunk of a copy."""
        now = self._clock()
        if self._copying is None:
            taken = self._copies.take(now)
            if taken is None:
                return
            receiver, activation = taken.copy.receiver, taken.copy.activation
            topic = self._name(receiver, activation.header)
            payloads = encode(activation, chunk_bytes=self._chunk_bytes)
            self._copying = (Message(topic, payload) for payload in payloads), taken.until
        chunks, until = self._copying
        message = next(chunks, None) if now < until else None
        if message is None:
            self._copying = None
        else:
            await self._write_drained(connection, message)

    async def _write_drained(self, connection: DataConnection, message: Message) -> None:
        was_full = connection.congested
        await connection.drained()
        if was_full:
            self._link.took(self._clock())
        self._write(connection, message)

    def receive(self, message: Message) -> None:
        """One message of the activation topic."""
        nbytes = len(message.payload)
        # A chunk that is full has others behind it, sent at the same time.
        goes_on = nbytes >= self._chunk_bytes
        self._link.arrived(
            nbytes,
            self._clock(),
            train=message.topic,
            goes_on=goes_on,
            pieces=message.pieces,
        )
        try:
            activation = self._assembler.feed(message.payload, self._clock())
        except BrokenActivationError as error:
            self._broke(error.header)
        except WireError as error:
            self._refuse(message.topic, error)
        else:
            if activation is not None:
                self._arrived(activation)

    def _write(self, connection: DataConnection, message: Message) -> None:
        connection.publish_soon(message)
        self._link.wrote(len(message.payload))

    def _refuse(self, topic: str, error: WireError) -> None:
        """Nobody can be told which attempt it was. Logged at each doubling, for it may go on."""
        self.unreadable += 1
        if self.unreadable.bit_count() == 1:
            log.warning(
                "messages that cannot be read: %d, the last on %s: %s",
                self.unreadable,
                topic,
                error,
            )

    def tick(self) -> None:
        for header in self._assembler.expire(self._clock(), UNFINISHED_S):
            self._broke(header)
