"""`dsi-mqtt worker`: one node."""

from __future__ import annotations

import logging
import platform
import re
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from dsi_mqtt.cli.common import (
    DEFAULT_URL,
    ROOT,
    BrokerOption,
    DataBrokerOption,
    RootOption,
    home_brokers,
    until_stopped,
)
from dsi_mqtt.core.node import Upkeep, Watts
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.engine.select import TierFactory, missing_packages
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.transport.address import parse_broker_url
from dsi_mqtt.transport.loop import run
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics, check_name
from dsi_mqtt.worker.app import WorkerConfig, WorkerProcess

log = logging.getLogger(__name__)

# Whoever starts the brokers says where tensors go when both are up, and 0.5 s after it was lost.
SITE_WAIT_S: Final = 2.0

NameOption = Annotated[
    str | None, typer.Option("--name", "-n", help="This node; by default the host's name.")
]
CapOption = Annotated[
    str,
    typer.Option(
        "--memory-cap", help="MiB of weights this node may hold; none: most of the free memory."
    ),
]
ModelsOption = Annotated[
    Path | None,
    typer.Option("--models", help="Where checkpoint folders and factories' modules lie."),
]


def worker(
    name: NameOption = None,
    zone: Annotated[str, typer.Option(help="The zone of trust this machine stands in.")] = "edge",
    broker: BrokerOption = DEFAULT_URL,
    data_broker: DataBrokerOption = None,
    memory_cap: CapOption = "none",
    threads: Annotated[int, typer.Option(min=1, help="Threads to compute with.")] = 1,
    spare: Annotated[
        bool, typer.Option(help="Take part only when it does not work without this node.")
    ] = False,
    price: Annotated[
        str, typer.Option(help="The class of its price, as deployments name them.")
    ] = "default",
    watts: Annotated[
        str, typer.Option(help="That it draws when idle, and when it computes: IDLE,BUSY.")
    ] = "0,0",
    models: ModelsOption = None,
    root: RootOption = ROOT,
) -> None:
    """Run one node.

    It loads and computes the segments that the table gives it.
    """
    node = check_name(name or _host_name(), "--name")
    check_name(zone, "--zone")
    cap = parse_cap(memory_cap, "--memory-cap")
    upkeep = Upkeep(check_name(price, "--price"), parse_watts(watts))
    if models is not None:
        sys.path.insert(0, str(models.resolve()))  # a factory is imported by its module's name

    async def serve() -> None:
        topics = Topics(root)
        brokers = await home_brokers(broker, data_broker, topics, wait_s=SITE_WAIT_S)
        where = parse_broker_url(broker)
        if data_broker is None and parse_broker_url(brokers.data) == where:
            log.info(
                "%s names no other broker for tensors, so they go to %s too until it does; "
                "or give --data-broker",
                topics.site.name(),
                where,
            )
        print(f"node {node} in zone {zone}, at {where}; Ctrl-C ends it", flush=True)
        warn_of_missing()
        config = WorkerConfig(
            node,
            zone,
            brokers,
            root,
            cap,
            threads=threads,
            spare=spare,
            upkeep=upkeep,
            model_root=models,
            follows_site=data_broker is None,
        )
        await WorkerProcess(config, MqttTransport(), TierFactory(threads=threads)).run()

    run(until_stopped(serve()))


def warn_of_missing() -> None:
    """Says at the start what would else show as a refusal of every model."""
    missing = missing_packages()
    if missing:
        log.warning(
            "%s: not installed, so every model but a fake one is refused here; "
            "pip install '.[node]' in the checkout",
            ", ".join(missing),
        )


def parse_cap(text: str, option: str) -> int | None:
    """MiB as text → bytes; "none" → None. Raises ConfigError naming `option`."""
    if text.lower() == "none":
        return None
    try:
        mib = float(text)
    except ValueError:
        mib = -1.0
    if not 0 < mib < float("inf"):
        raise ConfigError(f"{option}: {text!r:.40} is no size; give MiB of weights, or none")
    return int(mib * MIB)


def parse_watts(text: str) -> Watts:
    """Raises ConfigError."""
    try:
        idle, busy = map(float, text.split(","))
    except ValueError:
        idle = busy = -1.0
    if not (0 <= idle < float("inf") and 0 <= busy < float("inf")):
        raise ConfigError(f"--watts: {text!r:.40} are no watts; give two numbers, as in 4,12")
    return Watts(idle, busy)


def _host_name() -> str:
    """The host's name as a node's name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", platform.node()).strip("-._")[:64] or "node"
