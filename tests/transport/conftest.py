"""Brokers of both transports behind one face, so that one suite holds both to one contract."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

import mqtt5
import pytest
import pytest_asyncio
import uvloop

from dsi_mqtt.errors import ConnectionLostError
from dsi_mqtt.transport.address import BrokerAddress
from dsi_mqtt.transport.base import (
    BrokerLimits,
    Connection,
    ConnectOptions,
    ControlConnection,
    DataConnection,
    Message,
    Transport,
)
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.transport.mosquitto import (
    BrokerSettings,
    MosquittoProcess,
    data_settings,
    find_mosquitto,
)
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.transport.mqtt_control import MqttControlConnection
from dsi_mqtt.transport.mqtt_data import MqttDataConnection

Kind = Literal["control", "data"]

PACKET_MAX: Final = 16 * 1024 * 1024
IN_FLIGHT_MAX: Final = 20
PATIENCE_S: Final = 20.0  # no test waits this long for what will come

_numbers = count()


@dataclass
class Site:
    """A broker and the transport that reaches it, with names of this test's own on it."""

    transport: Transport
    url: str
    stop: Callable[[], Awaitable[None]]
    kill: Callable[[], Awaitable[None]]
    number: int = field(default_factory=lambda: next(_numbers))
    opened: list[Connection] = field(default_factory=list)

    def name(self, suffix: str) -> str:
        """A topic or client id that no other test uses."""
        return f"t{self.number}/{suffix}"

    async def control(self, client: str = "", **options: Any) -> ControlConnection:
        connection = await self.transport.control(self.url, self._options(client, options))
        self.opened.append(connection)
        return connection

    async def data(self, client: str = "", **options: Any) -> DataConnection:
        connection = await self.transport.data(self.url, self._options(client, options))
        self.opened.append(connection)
        return connection

    async def connect(self, kind: Kind, client: str = "", **options: Any) -> Connection:
        if kind == "control":
            return await self.control(client, **options)
        return await self.data(client, **options)

    async def close(self) -> None:
        for connection in self.opened:
            connection.abort()
        for connection in self.opened:
            await connection.close()

    async def take(self, connection: Connection, wanted: int) -> list[Message]:
        """The next messages, acknowledged where that is done by hand."""
        taken: list[Message] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(taken) < wanted:
                message = await anext(connection.messages())
                taken.append(message)
                if message.receipt is not None:
                    cast("DataConnection", connection).acknowledge(message)
        return taken

    async def hold(self, connection: DataConnection, wanted: int) -> list[Message]:
        """The next messages, not acknowledged."""
        async with asyncio.timeout(PATIENCE_S):
            return [await anext(connection.messages()) for _ in range(wanted)]

    async def settled(self, connection: Connection) -> None:
        """Returns when the broker has dealt with all it was sent before, and the rest of us had
        the time of two round trips to read what came of it.
        """
        for _ in range(2):
            await connection.publish(Message(self.name("settled"), b"", qos=1))

    async def end_of(self, connection: Connection) -> ConnectionLostError:
        """The error that ends the iteration; whatever comes before it is taken."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while True:
                    await anext(connection.messages())
            except ConnectionLostError as error:
                return error

    def _options(self, client: str, options: dict[str, Any]) -> ConnectOptions:
        return ConnectOptions(client_id=self.name(client) if client else "", **options)


P = TypeVar("P")


@dataclass
class Peer:
    """The broker's end of one connection, a packet at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def receive(self, kind: type[P]) -> P:
        """The next packet, which must be of this kind; pings are answered."""
        while True:
            packet = await self._next()
            if isinstance(packet, mqtt5.PingReqPacket) and kind is not mqtt5.PingReqPacket:
                self.send(mqtt5.PingRespPacket())
                continue
            assert isinstance(packet, kind), packet
            return packet

    def send(self, *packets: Any) -> None:
        for packet in packets:
            self.writer.write(packet if isinstance(packet, bytes) else packet.write())

    async def admit(self, **connack: Any) -> mqtt5.ConnectPacket:
        connect = await self.receive(mqtt5.ConnectPacket)
        self.send(mqtt5.ConnAckPacket(**connack))
        return connect

    async def gone(self) -> None:
        """Returns when the client has closed its end."""
        while await self.reader.read(65536):
            pass

    async def _next(self) -> Any:
        head = await self.reader.readexactly(2)
        while head[-1] & 0x80:
            head += await self.reader.readexactly(1)
        length = sum((byte & 0x7F) << (7 * index) for index, byte in enumerate(head[1:]))
        packet, _ = mqtt5.read(memoryview(head + await self.reader.readexactly(length)))
        return packet


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class ScriptedBroker:
    address: BrokerAddress
    opened: list[Connection] = field(default_factory=list)

    async def data(self, **options: Any) -> MqttDataConnection:
        connection = await MqttDataConnection.open(self.address, ConnectOptions(**options))
        self.opened.append(connection)
        return connection

    async def connect(self, kind: Kind, **options: Any) -> Connection:
        if kind == "data":
            return await self.data(**options)
        connection = await MqttControlConnection.open(self.address, ConnectOptions(**options))
        self.opened.append(connection)
        return connection


@contextlib.asynccontextmanager
async def _scripted(script: Script) -> AsyncIterator[ScriptedBroker]:
    """Runs the script on the one connection made to it; its errors are the test's."""
    playing: list[asyncio.Task[None]] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Peer(reader, writer))
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        playing.append(asyncio.create_task(play(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    broker = ScriptedBroker(BrokerAddress(*server.sockets[0].getsockname()[:2]))
    async with asyncio.timeout(PATIENCE_S):
        try:
            yield broker
        finally:
            for connection in broker.opened:
                connection.abort()
            server.close()
            await asyncio.gather(*playing)
            await server.wait_closed()


Scripted = Callable[[Script], contextlib.AbstractAsyncContextManager[ScriptedBroker]]


@pytest.fixture
def scripted() -> Scripted:
    """Makes brokers that do what the test says."""
    return _scripted


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Processes run on uvloop where it is installed, on asyncio's own loop where not."""
    factories = {"asyncio": asyncio.new_event_loop}
    if item.path.stem.endswith("contract"):
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(params=["control", "data"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """What both kinds of connection share is tested on both."""
    return cast("Kind", request.param)


@pytest.fixture(params=["memory", "mosquitto"])
def broker_kind(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


@pytest.fixture(scope="session")
def shared_mosquitto() -> Iterator[MosquittoProcess]:
    # Not on a test's event loop: there is more than one.
    process = MosquittoProcess(_settings())
    asyncio.run(process.start())
    yield process
    asyncio.run(process.stop())


@pytest_asyncio.fixture
async def site(broker_kind: str, shared_mosquitto: MosquittoProcess) -> AsyncIterator[Site]:
    """A broker that outlives the test."""
    made = _memory_site() if broker_kind == "memory" else _mosquitto_site(shared_mosquitto)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def mortal_site(broker_kind: str) -> AsyncIterator[Site]:
    """A broker of the test's own, to end."""
    if broker_kind == "memory":
        made = _memory_site()
        yield made
        await made.close()
        return
    async with MosquittoProcess(_settings()) as process:
        made = _mosquitto_site(process)
        yield made
        await made.close()


@pytest_asyncio.fixture
async def locked_site(broker_kind: str, tmp_path: Path) -> AsyncIterator[Site]:
    """A broker that admits only user `anna`, password `pa:ss`."""
    if broker_kind == "memory":
        made = _memory_site(users={"anna": "pa:ss"})
        yield made
        await made.close()
        return
    async with _locked_mosquitto(tmp_path) as url:
        made = Site(MqttTransport(), url, _never, _never)
        yield made
        await made.close()


@contextlib.asynccontextmanager
async def _locked_mosquitto(folder: Path) -> AsyncIterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with _start_locked(folder, port) as process:
        try:
            await _listening(port)
            yield f"mqtt://127.0.0.1:{port}"
        finally:
            process.terminate()


def _start_locked(folder: Path, port: int) -> subprocess.Popen[bytes]:
    passwords, config = folder / "passwords", folder / "mosquitto.conf"
    make = ["mosquitto_passwd", "-b", "-c", str(passwords), "anna", "pa:ss"]
    subprocess.run(make, check=True, capture_output=True)
    user = "user root\n" if os.geteuid() == 0 else ""  # who may read the password file
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n{user}"
    )
    return subprocess.Popen([find_mosquitto(), "-c", config], stderr=subprocess.DEVNULL)


async def _listening(port: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.01)


def _settings() -> BrokerSettings:
    return replace(data_settings(), max_packet_size=PACKET_MAX, max_inflight_messages=IN_FLIGHT_MAX)


def _memory_site(users: dict[str, str] | None = None) -> Site:
    broker = MemoryBroker(
        limits=BrokerLimits(max_packet_size=PACKET_MAX, receive_max=IN_FLIGHT_MAX), users=users
    )

    async def stop() -> None:
        broker.stop()

    async def kill() -> None:
        broker.kill()

    return Site(MemoryTransport(broker), f"mem://{broker.name}", stop, kill)


def _mosquitto_site(process: MosquittoProcess) -> Site:
    return Site(MqttTransport(), process.url, process.stop, process.kill)


async def _never() -> None:
    raise AssertionError("this broker is not the test's to end")
