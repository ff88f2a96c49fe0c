"""`dsi-mqtt orchestrator`: plans, and publishes the tables."""

from __future__ import annotations

from typing import Annotated

import typer

from dsi_mqtt.cli.common import (
    DEFAULT_URL,
    ROOT,
    BrokerOption,
    RootOption,
    control_connection,
    until_stopped,
)
from dsi_mqtt.orchestrator.app import OrchestratorProcess
from dsi_mqtt.orchestrator.strays import StrayAnswerer
from dsi_mqtt.transport.address import parse_broker_url
from dsi_mqtt.transport.loop import run
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.transport.together import first_of


def orchestrator(
    broker: BrokerOption = DEFAULT_URL,
    root: RootOption = ROOT,
    answer_strays: Annotated[
        bool,
        typer.Option(
            help="Answer inputs of unknown deployments; `dsi-mqtt broker` does that already."
        ),
    ] = False,
) -> None:
    """Run an orchestrator: it plans, and publishes the tables.

    Several may run; one leads, the others stand by.
    """

    async def serve() -> None:
        async with control_connection(broker):
            pass  # a wrong address is said at once, and not retried for ever
        print(f"orchestrator at {parse_broker_url(broker)}; Ctrl-C ends it", flush=True)
        transport = MqttTransport()
        process = OrchestratorProcess(broker, transport, root=root)
        if answer_strays:
            await first_of(process.run(), StrayAnswerer(broker, transport, root=root).run())
        else:
            await process.run()

    run(until_stopped(serve()))
