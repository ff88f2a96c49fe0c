"""What several commands share: options, waiting for a signal, looking at a broker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console

from dsi_mqtt.core.sizes import GIB, KIB, MIB
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.errors import ConfigError, WireError, one_sentence
from dsi_mqtt.transport.address import parse_broker_url, where_tensors_go
from dsi_mqtt.transport.base import Connection, ConnectOptions, ControlConnection, Message
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.transport.retained import read_retained
from dsi_mqtt.wire.topics import ROOT, Topics

PORT_MAX: Final = 65535
DEFAULT_URL: Final = "mqtt://127.0.0.1:1883"

T = TypeVar("T")

BrokerOption = Annotated[
    str,
    typer.Option("--broker", "-b", help="The broker for control and inputs.", envvar="DSI_BROKER"),
]
DataBrokerOption = Annotated[
    str | None,
    typer.Option(
        "--data-broker",
        help="The broker for tensors; by default what the control broker names, else the same.",
    ),
]
RootOption = Annotated[
    str, typer.Option("--root", help="The topic everything lies below.", envvar="DSI_ROOT")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

__all__ = ["DEFAULT_URL", "ROOT", "BrokerOption", "DataBrokerOption", "JsonOption", "RootOption"]


def usable_folder(folder: Path, option: str) -> Path:
    """It is there by now. Raises ConfigError, which names the option, where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError(
            one_sentence(f"{option}: {folder} cannot be a folder ({why}); give another")
        ) from None
    return folder


async def until_stopped(work: Coroutine[Any, Any, T], *, ending: str = "") -> T | None:
    """Runs `work` until it ends or this process is asked to stop; then `work` is cancelled.

    Asked again, it is still let finish what it does to end cleanly. ending: what is said then.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)

    def stop() -> None:
        if not task.cancelling():
            if ending:
                print(ending, file=sys.stderr, flush=True)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        return None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def control_connection(url: str) -> AsyncIterator[ControlConnection]:
    """Raises BrokerUnreachableError or BrokerRefusedError."""
    connection = await MqttTransport().control(url, ConnectOptions())
    try:
        yield connection
    finally:
        await connection.close()


async def home_brokers(
    url: str, data_url: str | None, topics: Topics, *, wait_s: float = 0.0
) -> BrokerUrls:
    """Both brokers of a node: the data broker as given, as retained on the site, or the same.

    wait_s: how long nothing may be retained before it is the same.
    Raises ConfigError when a URL is none, or what is retained does not say where tensors go.
    """
    address = parse_broker_url(url)
    if data_url is not None:
        parse_broker_url(data_url)
        return BrokerUrls(url, data_url)
    async with control_connection(url) as connection:
        message = await site_message(connection, topics, wait_s)
    if message is None:
        return BrokerUrls(url, url)
    try:
        port = topics.site.payload.decode(message.payload).data_port
    except WireError as error:
        raise ConfigError(
            f"{message.topic} at {address} does not say where tensors go ({error!s:.50}); "
            "start `dsi-mqtt broker` again, or give --data-broker"
        ) from None
    return BrokerUrls(url, where_tensors_go(url, port))


async def site_message(connection: Connection, topics: Topics, wait_s: float) -> Message | None:
    """What is retained on where tensors go, or comes to be within `wait_s`."""
    topic = topics.site.name()
    for message in await read_retained(connection, [topic], marker(topics)):
        return message
    if not wait_s:
        return None
    try:
        async with asyncio.timeout(wait_s):
            await connection.subscribe(topic)
            async for message in connection.messages():
                if message.payload:
                    return message
    except TimeoutError:
        return None
    return None


def marker(topics: Topics) -> str:
    """A topic of one's own, to know when everything retained has come."""
    return topics.echo.name(node=f"cli-{os.urandom(8).hex()}")


def size(nbytes: int) -> str:
    """Bytes as a person reads them."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} B"


def state_folder() -> Path:
    """Where this user's brokers keep their state and commands their logs."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "dsi-mqtt"


@contextmanager
def waiting(console: Console, text: str, *, plain: bool = False) -> Iterator[Callable[[str], None]]:
    """Shows what is waited for; what it yields changes the text.

    plain: where nobody watches a terminal, one line says it all the same.
    """
    if not console.is_terminal:
        if plain:
            console.print(f"{text} …", markup=False)
        yield lambda _: None
        return
    with console.status(text) as line:
        yield line.update
