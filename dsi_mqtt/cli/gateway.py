"""`dsi-mqtt gateway`: OpenAI's API in front of the deployments of a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from dsi_mqtt.cli.common import (
    DEFAULT_URL,
    PORT_MAX,
    ROOT,
    BrokerOption,
    RootOption,
    control_connection,
    until_stopped,
)
from dsi_mqtt.client import Client
from dsi_mqtt.errors import MachineError
from dsi_mqtt.transport.loop import run
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics

if TYPE_CHECKING:
    import socket

    from dsi_mqtt.gateway.keys import Keys


def gateway(
    broker: BrokerOption = DEFAULT_URL,
    bind: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=PORT_MAX, help="Port to listen on; 0: a free one.")
    ] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(help="File with an API key or its sha256:… a line; without, all may ask."),
    ] = None,
    open_to_network: Annotated[
        bool, typer.Option(help="Allow anybody who reaches the address, without keys.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for one request.")] = 600.0,
    root: RootOption = ROOT,
) -> None:
    """Serve OpenAI's API over HTTP.

    The models are the deployments of a broker. Ctrl-C ends it, after what runs or ten seconds.
    """
    topics = Topics(root)
    try:
        # An extra of the package, which devices and nodes do without.
        from dsi_mqtt.gateway.keys import Keys  # noqa: PLC0415
        from dsi_mqtt.gateway.server import listen  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MachineError(
            f"the gateway needs {error.name}; pip install '.[gateway]' in the checkout"
        ) from None
    known = Keys.read(keys) if keys is not None else None
    listening = listen(bind, port, may_be_open=known is not None or open_to_network)
    with listening:
        run(until_stopped(_serve(broker, topics, known, listening, timeout)))


async def _serve(
    url: str, topics: Topics, keys: Keys | None, listening: socket.socket, timeout_s: float
) -> None:
    from dsi_mqtt.gateway.app import Gateway  # noqa: PLC0415 - the extra, as above
    from dsi_mqtt.gateway.catalogue import Catalogue  # noqa: PLC0415
    from dsi_mqtt.gateway.server import serving  # noqa: PLC0415

    async with control_connection(url):
        pass  # where there is no broker, it is said at once
    async with (
        Devices(lambda: Client(url, root=topics.root)) as devices,
        asyncio.TaskGroup() as group,
    ):
        catalogue = Catalogue(url, MqttTransport(), topics)
        following = group.create_task(catalogue.run(), name="catalogue")
        await catalogue.read()
        app = Gateway(devices.of, catalogue, keys, timeout_s=timeout_s).app()
        async with serving(app, listening) as server:
            host, port = listening.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"OpenAI's API on http://{shown}:{port}/v1; Ctrl-C ends it", flush=True)
            await asyncio.wait({server, following}, return_when=asyncio.FIRST_COMPLETED)
        following.cancel()


class Devices:
    """A client for each owner of a key, opened when it is first asked for.

    make: gives clients that are not open yet, each a device of its own.
    """

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._open: dict[str, Client] = {}
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def of(self, owner: str) -> Client:
        """Raises BrokerUnreachableError or BrokerRefusedError."""
        known = self._open.get(owner)
        if known is not None:
            return known  # who has one does not wait for others' to be opened
        async with self._opening:
            if owner not in self._open:
                client = await self._stack.enter_async_context(self._make())
                self._open[owner] = client
            return self._open[owner]
