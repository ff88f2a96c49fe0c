"""What is retained and said on a broker, kept up to date for commands that show or wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.node import Leader, NodeStatus, Telemetry
from dsi_mqtt.core.table import TableDocument
from dsi_mqtt.errors import WireError
from dsi_mqtt.transport.base import ControlConnection, Message
from dsi_mqtt.wire.topics import Topics


@dataclass(slots=True)
class Picture:
    """Everything that the control topics say now. heard: monotonic seconds of telemetry."""

    specs: dict[str, Deployment] = field(default_factory=dict)
    documents: dict[str, TableDocument] = field(default_factory=dict)
    statuses: dict[str, NodeStatus] = field(default_factory=dict)
    telemetry: dict[str, Telemetry] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)
    leader: Leader | None = None

    @property
    def led(self) -> bool:
        """Whether an orchestrator leads, and has not said farewell."""
        return self.leader is not None and self.leader.beat > 0

    def live_nodes(self) -> list[NodeStatus]:
        """By name, without those that have left."""
        return [s for _, s in sorted(self.statuses.items()) if s.state != "offline"]


async def watch(
    connection: ControlConnection,
    topics: Topics,
    changed: Callable[[Picture], bool],
    marker_topic: str,
) -> Picture:
    """Keeps a picture until `changed`, called once all retained state is in it and after every
    message since, returns True. Raises ConnectionLostError.
    """
    picture = Picture()
    for topic in (topics.status, topics.telemetry, topics.spec, topics.table, topics.leader):
        await connection.subscribe(topic.filter(), qos=topic.qos)
    await connection.subscribe(marker_topic, qos=1)
    await connection.publish(Message(marker_topic, b"all retained messages came before", qos=1))
    complete = False
    async for message in connection.messages():
        complete = complete or message.topic == marker_topic
        try:
            _note(picture, topics, message)
        except WireError:
            continue  # somebody else's message; those who use it complain
        if complete and changed(picture):
            break
    return picture


def _note(picture: Picture, topics: Topics, message: Message) -> None:
    if parts := topics.status.parts(message.topic):
        if message.payload:
            picture.statuses[parts["node"]] = topics.status.payload.decode(message.payload)
        else:
            picture.statuses.pop(parts["node"], None)
    elif parts := topics.telemetry.parts(message.topic):
        picture.telemetry[parts["node"]] = topics.telemetry.payload.decode(message.payload)
        picture.heard[parts["node"]] = time.monotonic()
    elif parts := topics.spec.parts(message.topic):
        if message.payload:
            picture.specs[parts["deployment"]] = topics.spec.payload.decode(message.payload)
        else:
            picture.specs.pop(parts["deployment"], None)
    elif parts := topics.table.parts(message.topic):
        if message.payload:
            picture.documents[parts["deployment"]] = topics.table.payload.decode(message.payload)
        else:
            picture.documents.pop(parts["deployment"], None)
    elif topics.leader.parts(message.topic) is not None and message.payload:
        picture.leader = topics.leader.payload.decode(message.payload)
