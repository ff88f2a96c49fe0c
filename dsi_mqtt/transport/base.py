"""The transport protocol: what the rest of the system needs of a broker.

Two kinds of connection, because they need opposite things:

* a *control* connection carries state: few and small messages, acknowledged when received;
* a *data* connection carries inputs and activations: manual acknowledgement, a bound on what is
  held, no reconnect behind the caller's back, and speed.

Neither reconnects by itself. A connection that ends raises `ConnectionLostError` from every
pending and later call, and from the iteration over `messages()`; `lasting.py` is the one place
that connects again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from dsi_mqtt.core.sizes import MIB


@dataclass(frozen=True, slots=True)
class Message:
    """A message as published or as received.

    `receipt` is the connection's own token for a message that awaits acknowledgement
    (None: nothing to acknowledge). `duplicate` is the broker's DUP flag. `pieces`: of one that was
    received in pieces, the bytes behind the first of them and the seconds until the last one.
    """

    topic: str
    payload: bytes | memoryview = b""
    qos: int = 0
    retain: bool = False
    duplicate: bool = False
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    expiry_s: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    receipt: int | None = None
    pieces: tuple[int, float] = (0, 0.0)


@dataclass(frozen=True, slots=True)
class Will:
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """How to connect.

    client_id: empty lets the broker choose.
    session_expiry_s: how long the broker keeps the MQTT session after the connection;
        0 ends it with the connection, and then `clean_start` makes no difference.
    hold_count, hold_bytes: a data connection hands over nothing more, and reads its socket into
        its receive buffer only, while this many QoS 1 messages are unacknowledged, or messages of
        this many bytes (payload, properties and record) are unacknowledged or not yet taken from
        `messages()`. One message is always admitted, whatever its size. What comes behind
        waits too, PUBACKs among it: at the bound, acknowledge without first waiting for a QoS 1
        publish on the same connection.
    """

    client_id: str = ""
    clean_start: bool = True
    session_expiry_s: int = 0
    keep_alive_s: int = 15
    will: Will | None = None
    username: str | None = None
    password: str | None = None
    hold_count: int = 64
    hold_bytes: int = 64 * MIB
    connect_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """What the broker granted in its CONNACK; None: it named no limit."""

    max_packet_size: int | None = None
    receive_max: int = 65535
    server_keep_alive_s: int | None = None
    retain_available: bool = True
    max_qos: int = 2


class Connection(Protocol):
    """What both kinds share."""

    @property
    def session_present(self) -> bool: ...

    @property
    def limits(self) -> BrokerLimits: ...

    async def subscribe(self, topic_filter: str, *, qos: int = 0) -> None:
        """Subscribes, with the retain flag as published. Returns when the broker has granted it.

        Raises BrokerRefusedError when it does not.
        """

    async def unsubscribe(self, topic_filter: str) -> None: ...

    async def publish(self, message: Message) -> bool:
        """Publishes.

        QoS 0: returns when the bytes are written, waiting while the socket is congested.
        QoS 1: returns when the broker has acknowledged. False only where the broker says that
        nobody has subscribed to the topic (MQTT 5 reason 16); True proves nothing.

        Raises TooLargeError before sending what exceeds the broker's packet limit,
        BrokerRefusedError when the broker answers with an error.
        """

    def messages(self) -> AsyncIterator[Message]:
        """Received messages in order. One reader at a time."""

    async def close(self) -> None:
        """Disconnects cleanly: no will is sent. Safe to call twice."""

    def abort(self) -> None:
        """Drops the socket as a crash would: the broker sends the will."""


class ControlConnection(Connection, Protocol):
    pass


class DataConnection(Connection, Protocol):
    @property
    def congested(self) -> bool:
        """Whether the socket takes no bytes at present; `drained` waits until it does."""

    @property
    def arriving(self) -> tuple[int, float]:
        """Of a message that is there in part: bytes behind its first piece, and for how long."""

    def acknowledge(self, message: Message) -> None:
        """Acknowledges a QoS 1 message taken from `messages()`; without a receipt, nothing.

        A message of an earlier connection, or one acknowledged before, is ignored: the broker
        sends the former again.
        """

    def publish_soon(self, message: Message) -> None:
        """Queues a QoS 0 message without waiting; for small messages on the hot path."""

    async def drained(self) -> None:
        """Returns when the socket takes bytes again."""


class Transport(Protocol):
    """Opens connections to one kind of broker. `url`: mqtt://host:port, mem://name."""

    async def control(self, url: str, options: ConnectOptions) -> ControlConnection:
        """Raises BrokerUnreachableError or BrokerRefusedError."""

    async def data(self, url: str, options: ConnectOptions) -> DataConnection: ...
