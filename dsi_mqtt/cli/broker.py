"""`dsi-mqtt broker`: both brokers of a site, from generated configurations."""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from dsi_mqtt.cli.common import (
    PORT_MAX,
    ROOT,
    RootOption,
    control_connection,
    marker,
    state_folder,
    until_stopped,
    usable_folder,
)
from dsi_mqtt.core.node import DataBroker
from dsi_mqtt.errors import ConfigError, PortInUseError, TransportError
from dsi_mqtt.orchestrator.strays import StrayAnswerer
from dsi_mqtt.transport.address import parse_broker_url
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.transport.loop import run
from dsi_mqtt.transport.mosquitto import MosquittoProcess, control_settings, data_settings
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.transport.retained import read_retained
from dsi_mqtt.wire.topics import Topics

log = logging.getLogger(__name__)

CONTROL_PORT: Final = 1883
WATCH_S: Final = 0.5
# From somebody's overwriting of what is retained to writing it again.
REWRITE_S: Final = 0.5
# For whoever holds our port to say who it is.
LOOK_S: Final = 2.0


PortOption = Annotated[
    int, typer.Option(min=0, max=PORT_MAX, help="Port for control and inputs; 0: a free one.")
]
DataPortOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=PORT_MAX,
        help="Port for tensors, by default the one behind --port; 0: a free one.",
    ),
]


def data_port_of(port: int, data_port: int | None) -> int:
    """Raises ConfigError where no port is behind `port`."""
    if data_port is not None or not port:
        return data_port or 0
    if port == PORT_MAX:
        raise ConfigError(f"--data-port: there is none behind {port}; give one")
    return port + 1


def broker(
    port: PortOption = CONTROL_PORT,
    data_port: DataPortOption = None,
    bind: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    open_to_network: Annotated[
        bool,
        typer.Option(help="Allow anybody who reaches the address. There is no password yet."),
    ] = False,
    state: Annotated[Path | None, typer.Option(help="Folder for what survives a restart.")] = None,
    root: RootOption = ROOT,
) -> None:
    """Run both brokers of a site.

    One is for control and inputs, the other for tensors.
    """
    folder = usable_folder(state or state_folder() / f"broker-{port}", "--state")
    tensors = data_port_of(port, data_port)

    async def serve() -> None:
        async with site_brokers(
            folder, port, tensors, root=root, bind=bind, open_to_network=open_to_network
        ) as site:
            print(f"control and inputs  mqtt://{bind}:{site.control.port}")
            print(f"tensors             mqtt://{bind}:{site.data.port}")
            print(f"state               {folder}")
            print(f"Mosquitto {site.control.version}; Ctrl-C ends it", flush=True)
            await site.watch()

    run(until_stopped(serve()))


class SiteBrokers:
    """Both brokers of a site, running. `watch` starts one again that has died."""

    def __init__(self, control: MosquittoProcess, data: MosquittoProcess) -> None:
        self.control = control
        self.data = data

    async def watch(self) -> None:
        """Runs for ever. Raises MachineError when a broker cannot be started again."""
        while True:
            await asyncio.sleep(WATCH_S)
            for process in (self.control, self.data):
                if process.pid is None:
                    log.warning("the broker on port %d has died; it is started again", process.port)
                    await process.start()


@asynccontextmanager
async def site_brokers(
    folder: Path,
    port: int,
    data_port: int,
    *,
    root: str,
    bind: str = "127.0.0.1",
    open_to_network: bool = False,
    fresh: bool = False,
) -> AsyncIterator[SiteBrokers]:
    """Starts both, says on the control broker where the other is, and answers stray inputs.

    A port of 0 takes a free one. fresh: what earlier runs left in `folder` is forgotten.
    Raises MachineError: no Mosquitto, or a port in use; ConfigError: `bind` is not this machine's,
    or `folder` is another's.
    """
    control = MosquittoProcess(
        replace(control_settings(port=port), bind=bind, open_to_network=open_to_network),
        folder=folder / "control",
        port_option="--port",
        fresh=fresh,
    )
    data = MosquittoProcess(
        replace(data_settings(port=data_port), bind=bind, open_to_network=open_to_network),
        folder=folder / "data",
        port_option="--data-port",
    )
    topics = Topics(root)
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(_alone_in(folder))
            await stack.enter_async_context(control)
        except (PortInUseError, _FolderInUseError) as error:
            raise (await _whose(control.url, topics, error) if port else error) from None
        await stack.enter_async_context(data)
        payload = topics.site.payload.encode(DataBroker(data.port))
        where = Message(topics.site.name(), payload, qos=1, retain=True)
        async with control_connection(control.url) as connection:
            await connection.publish(where)
        for beside in (
            StrayAnswerer(control.url, MqttTransport(), root=root).run(),
            _keep_retained(control.url, where),
        ):
            stack.callback(asyncio.create_task(beside).cancel)
        yield SiteBrokers(control, data)


class _FolderInUseError(ConfigError):
    """Other brokers keep their state there."""


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Nobody else's brokers have their state in `folder` meanwhile: two would write over each
    other's configuration and database, which the one that is restarted first finds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _FolderInUseError(
                f"--state: brokers of another `up` or `broker` keep their state in {folder}; end "
                "that, or give another folder"
            ) from None
        yield


async def _whose(
    url: str, topics: Topics, error: PortInUseError | _FolderInUseError
) -> PortInUseError | _FolderInUseError:
    """The same, or that the port is held by a control broker as this program starts them."""
    try:
        async with asyncio.timeout(LOOK_S), control_connection(url) as connection:
            found = await read_retained(connection, [topics.site.name()], marker(topics))
    except (TimeoutError, TransportError):
        return error
    if not found:
        return error
    address = parse_broker_url(url)
    return PortInUseError(
        f"a dsi-mqtt broker is at {address} already, by `up` or `broker`; end that, use it with "
        "--broker, or choose another --port"
    )


async def _keep_retained(url: str, message: Message) -> None:
    """Publishes it again after every connection, for a broker may come back without its state, and
    whenever somebody clears or spoils it.
    """

    async def connect() -> ControlConnection:
        return await MqttTransport().control(url, ConnectOptions())

    async def publish(connection: ControlConnection) -> None:
        await connection.subscribe(message.topic, qos=message.qos)
        await connection.publish(message)
        async for found in connection.messages():
            if bytes(found.payload) != message.payload:
                log.warning("%s was overwritten; it is written again", message.topic)
                await asyncio.sleep(REWRITE_S)  # whoever insists is not fought without end
                await connection.publish(message)

    await keep_connected(connect, publish, backoff=Backoff(last_s=3.0), on_wait=lambda *_: None)
