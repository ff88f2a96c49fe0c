"""Connections to brokers inside the process, for tests and simulation: `mem://name`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final, Self

from dsi_mqtt.errors import BrokerUnreachableError, ConfigError, ConnectionLostError
from dsi_mqtt.transport.base import BrokerLimits, ConnectOptions, Message
from dsi_mqtt.transport.inbox import Inbox
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.transport.memory_session import ClientLink
from dsi_mqtt.transport.mqtt_packets import packet_size
from dsi_mqtt.transport.refusals import check_message, check_size, check_without_answer
from dsi_mqtt.transport.topics import check_filter

SCHEME: Final = "mem://"


class MemoryTransport:
    """Reaches the brokers that it was given, by name."""

    def __init__(self, *brokers: MemoryBroker) -> None:
        self._brokers = {broker.name: broker for broker in brokers}

    async def control(self, url: str, options: ConnectOptions) -> MemoryControlConnection:
        return await MemoryControlConnection.open(self._broker(url), options)

    async def data(self, url: str, options: ConnectOptions) -> MemoryDataConnection:
        return await MemoryDataConnection.open(self._broker(url), options)

    def _broker(self, url: str) -> MemoryBroker:
        name = url.removeprefix(SCHEME)
        if name == url:
            raise ConfigError(f"broker URL {url!r} does not begin with {SCHEME}; use mem://name")
        if name not in self._brokers:
            raise BrokerUnreachableError(f"no MQTT broker answers at {url}; start it")
        return self._brokers[name]


class MemoryConnection(ABC):
    """What both kinds share; the client's end of a `ClientLink`."""

    def __init__(self, broker: MemoryBroker, inbox: Inbox) -> None:
        self._broker = broker
        self._name = f"{SCHEME}{broker.name}"
        self._limits = broker.limits
        self._inbox = inbox
        self._end: str | None = None
        self._answers: set[asyncio.Future[bool | None]] = set()  # None: the connection ended
        self._link: ClientLink
        self._session_present = False

    async def _connect(self, options: ConnectOptions) -> None:
        await asyncio.sleep(0)  # a connection to elsewhere does not open without a task switch
        self._link, self._session_present = self._broker.connect(options, self)
        self._broker.attach(self._link)

    @property
    def session_present(self) -> bool:
        return self._session_present

    @property
    def limits(self) -> BrokerLimits:
        return self._limits

    @property
    def ready(self) -> bool:
        return not self._inbox.full

    @abstractmethod
    def deliver(self, message: Message, packet_id: int | None) -> None: ...

    def ended(self, reason: str) -> None:
        if self._end is not None:
            return
        self._end = f"the connection to broker {self._name} ended: {reason}"
        self._inbox.end(self._end)
        for answer in self._answers:
            _settle(answer, None)

    async def subscribe(self, topic_filter: str, *, qos: int = 0) -> None:
        check_filter(topic_filter)
        await self._answered(lambda: self._broker.subscribe(self._link, topic_filter, qos))

    async def unsubscribe(self, topic_filter: str) -> None:
        check_filter(topic_filter)
        await self._answered(lambda: self._broker.unsubscribe(self._link, topic_filter))

    async def publish(self, message: Message) -> bool:
        if message.qos:
            passed = self._checked(message)
            return await self._answered(lambda: self._broker.publish(self._link, passed))
        self._publish(message)
        await asyncio.sleep(0)  # readers get their turn, as beside a broker of its own
        return True

    def messages(self) -> AsyncIterator[Message]:
        return self._inbox

    async def close(self) -> None:
        self._link.send_up(lambda: self._broker.disconnect(self._link))
        self.ended("it was closed here")

    def abort(self) -> None:
        self._link.send_up(lambda: self._broker.hang_up(self._link))
        self.ended("it was aborted here")

    def _checked(self, message: Message) -> Message:
        """The message as it goes on the wire: its payload is not the caller's any more."""
        self._check_live()
        check_message(message, self._limits, self._name)
        check_size(message, packet_size(message), self._limits, self._name)
        return replace(message, payload=bytes(message.payload), duplicate=False, receipt=None)

    def _publish(self, message: Message) -> None:
        passed = self._checked(message)
        self._link.send_up(lambda: self._broker.publish(self._link, passed))

    async def _answered(self, request: Callable[[], bool]) -> bool:
        """Sends a request up and waits for what comes down, behind all that was sent before."""
        self._check_live()
        answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()

        def ask() -> None:
            result = request()
            self._link.send_down(lambda: _settle(answer, result))

        self._answers.add(answer)
        try:
            self._link.send_up(ask)
            await asyncio.sleep(0)
            received = await answer
        finally:
            self._answers.discard(answer)
        if received is None:
            raise ConnectionLostError(str(self._end))
        return received

    def _check_live(self) -> None:
        if self._end is not None:
            raise ConnectionLostError(self._end)


class MemoryControlConnection(MemoryConnection):
    """Acknowledges when a message is received; holds without a bound."""

    @classmethod
    async def open(cls, broker: MemoryBroker, options: ConnectOptions) -> Self:
        connection = cls(broker, Inbox())
        await connection._connect(options)
        return connection

    def deliver(self, message: Message, packet_id: int | None) -> None:
        self._inbox.put(message)
        if packet_id is not None:
            self._link.send_up(lambda: self._broker.acknowledge(self._link, packet_id))


class MemoryDataConnection(MemoryConnection):
    """Acknowledges by hand; at the bound of its inbox it reads no further."""

    @classmethod
    async def open(cls, broker: MemoryBroker, options: ConnectOptions) -> Self:
        inbox = Inbox(count_max=options.hold_count, bytes_max=options.hold_bytes)
        connection = cls(broker, inbox)
        inbox.on_room = connection._read_on
        await connection._connect(options)
        return connection

    def deliver(self, message: Message, packet_id: int | None) -> None:
        if packet_id is None:
            self._inbox.put(message)
        else:
            receipt = self._inbox.hold(packet_id)
            self._inbox.put(replace(message, receipt=receipt))

    def acknowledge(self, message: Message) -> None:
        self._check_live()
        packet_id = self._inbox.release(message.receipt)
        if packet_id is not None:
            self._link.send_up(lambda: self._broker.acknowledge(self._link, packet_id))

    def publish_soon(self, message: Message) -> None:
        check_without_answer(message)
        self._publish(message)

    @property
    def congested(self) -> bool:
        return False

    @property
    def arriving(self) -> tuple[int, float]:
        return 0, 0.0

    async def drained(self) -> None:
        self._check_live()

    def _read_on(self) -> None:
        self._link.pump()


def _settle(answer: asyncio.Future[bool | None], result: bool | None) -> None:
    if not answer.done():  # whoever waited may have been cancelled
        answer.set_result(result)
