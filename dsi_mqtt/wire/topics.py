"""Every topic, once: its shape, the type of its payload, its QoS and its retain flag.

docs/topics.md is the same for readers; a test keeps the two equal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.node import DataBroker, Desired, Leader, NodeStatus, Telemetry
from dsi_mqtt.core.request import DEVICE_MAX, LEVELS_MAX, Redelivery
from dsi_mqtt.core.table import TableDocument
from dsi_mqtt.errors import ConfigError, WireError
from dsi_mqtt.wire.control import Codec
from dsi_mqtt.wire.explanations import ExplanationsCodec
from dsi_mqtt.wire.ranges import first_out_of_range

ROOT: Final = "dsi/v1"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PART: Final = re.compile(r"\{(\w+)\}")

T = TypeVar("T")


@dataclass(frozen=True)
class Topic(Generic[T]):
    """One kind of topic. `codec` is None where the payload is no control message."""

    pattern: str
    codec: Codec[T] | None
    qos: int
    retain: bool
    writer: str

    def name(self, **parts: str) -> str:
        return self.pattern.format(**parts)

    def filter(self, **parts: str) -> str:
        """A topic filter; parts that are not given match anything on their level."""
        return _PART.sub(lambda part: parts.get(part[1], "+"), self.pattern)

    def parts(self, topic: str) -> dict[str, str] | None:
        """The variable levels of `topic`, or None when it is another kind of topic."""
        expected, given = self.pattern.split("/"), topic.split("/")
        if len(expected) != len(given):
            return None
        found = {}
        for want, have in zip(expected, given, strict=True):
            part = _PART.fullmatch(want)
            if part:
                found[part[1]] = have
            elif want != have:
                return None
        return found

    @property
    def payload(self) -> Codec[T]:
        if self.codec is None:
            raise TypeError(f"{self.pattern} carries no control message")
        return self.codec


_STATUS: Final = Codec(NodeStatus, check=first_out_of_range)
_TELEMETRY: Final = Codec(Telemetry)
_DESIRED: Final = Codec(Desired)
_SPEC: Final = Codec(Deployment, check=first_out_of_range)
_TABLE: Final = Codec(TableDocument, check=first_out_of_range)
_EXPLANATIONS: Final = ExplanationsCodec()
_SITE: Final = Codec(DataBroker, check=first_out_of_range)
_LEADER: Final = Codec(Leader, check=first_out_of_range)
_REDELIVERY: Final = Codec(Redelivery, check=first_out_of_range)


def _plain(pattern: str, qos: int, writer: str) -> Topic[None]:
    """A topic that carries no control message and retains nothing."""
    return Topic(pattern, None, qos, retain=False, writer=writer)


class Topics:
    """All topics below one root."""

    def __init__(self, root: str = ROOT) -> None:
        # Braces would be parts of a pattern; below $ are the broker's own topics.
        plain = all(level and not set(level) & set("+#\0{}") for level in root.split("/"))
        if not plain or root.startswith("$") or not root.isprintable():
            raise ConfigError(f"topic root {root!r:.60} must be plain levels, like {ROOT}")
        self.root = root
        node, deploy = f"{root}/node/{{node}}", f"{root}/deploy/{{deployment}}"
        self.status = Topic(f"{node}/status", _STATUS, 1, True, "the worker; its will")
        self.telemetry = Topic(f"{node}/telemetry", _TELEMETRY, 0, False, "the worker")
        self.beat = _plain(f"{node}/beat", 0, "the worker")
        self.desired = Topic(f"{node}/desired", _DESIRED, 1, True, "an operator")
        self.echo = _plain(f"{node}/echo", 0, "the worker, to itself")
        self.probe = _plain(f"{node}/probe", 1, "the worker, to nobody")
        self.spec = Topic(f"{deploy}/spec", _SPEC, 1, True, "an operator")
        self.table = Topic(f"{deploy}/table", _TABLE, 1, True, "the orchestrator")
        self.explanations = Topic(
            f"{deploy}/explanations", _EXPLANATIONS, 1, True, "the orchestrator"
        )
        self.redelivery = Topic(f"{deploy}/redelivery/{{key}}", _REDELIVERY, 1, True, "the door")
        self.input = _plain(f"{deploy}/in/{{device}}", 1, "a device")
        self.result = _plain(f"{deploy}/out/{{device}}/result", 1, "the door")
        self.cancel = _plain(f"{deploy}/cancel/{{device}}", 1, "a device")
        self.alive = _plain(f"{deploy}/alive/{{device}}", 0, "a device")
        self.activation = _plain(
            f"{root}/act/{{receiver}}/{{sender}}/{{deployment}}/{{kind}}", 0, "the sender"
        )
        self.site = Topic(
            f"{root}/broker/site", _SITE, 1, True, "the program that started the brokers"
        )
        self.leader = Topic(
            f"{root}/orchestrator/leader", _LEADER, 1, True, "the leading orchestrator"
        )

    def all(self) -> dict[str, Topic[object]]:
        return {name: topic for name, topic in vars(self).items() if isinstance(topic, Topic)}

    def own_answer(self, deployment: str, device: str, asked: str | None) -> str | None:
        """The Response Topic a device asked for, if it lies below the device's own answers."""
        own = self.answers(deployment, device)
        if asked is None or not asked.startswith(own) or asked == own or set(asked) & set("+#\0"):
            return None
        return asked if asked.count("/") < LEVELS_MAX else None

    def answers(self, deployment: str, device: str) -> str:
        """Prefix that a device's Response Topic must lie below."""
        return f"{self.root}/deploy/{deployment}/out/{device}/"


def check_name(name: str, what: str) -> str:
    """A node's or deployment's name. Raises ConfigError; the name becomes a topic level."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what}: {name!r:.60} is no name; use 1 to 64 letters, digits, dots, dashes or "
            "underscores, the first a letter or digit"
        )
    return name


def check_topic_name(name: str, level: str) -> None:
    """What a message calls itself must be what its topic says. Raises WireError."""
    if name != level or not _NAME.fullmatch(name):
        raise WireError(f"calls itself {name!r:.60}, its topic says {level!r:.60}")


def check_document(document: TableDocument, level: str) -> None:
    """Refuses tables of another deployment. Raises WireError."""
    for table in document.tables():
        check_topic_name(table.deployment, level)


def check_device(name: str) -> str:
    """A device's name: any one topic level without wildcards. Raises ConfigError."""
    if not 0 < len(name) <= DEVICE_MAX or set(name) & set("/+#") or not name.isprintable():
        raise ConfigError(
            f"device: {name!r:.60} must be 1 to {DEVICE_MAX} printable characters, no / + # in it"
        )
    return name
