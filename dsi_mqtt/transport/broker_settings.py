"""What this system needs a Mosquitto to be told, each limit with its reason.

Two brokers, because they need opposite things: the *control* broker keeps its state on disk and
saves at every change; the *data* broker keeps nothing, for tensors must not wait for a disk.
`broker/*.conf` are rendered from these settings, so that what is measured, what the demo starts
and what a site deploys are the same.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """One broker. Fields are named after the directives of mosquitto.conf(5).

    port: 0 lets `MosquittoProcess` take a free one.
    bind: the address to listen on. Everybody who reaches it is let in, so anything but loopback
        needs `open_to_network`, which a network namespace of one's own may justify.
    max_packet_size, max_queued_bytes: bytes. max_keepalive: seconds.
    persistent_client_expiration: a number and one of h, d, w, m, y.
    persistence_location: the folder of the database; None leaves it to whoever starts the broker.
    user: whom Mosquitto becomes when root starts it; None leaves its own default.

    Raises ConfigError when the settings would let strangers in.
    """

    name: str
    max_packet_size: int
    max_inflight_messages: int
    max_queued_messages: int
    max_queued_bytes: int
    max_keepalive: int
    persistent_client_expiration: str
    persistence: bool
    persistence_location: Path | None = None
    port: int = 0
    bind: str = "127.0.0.1"
    open_to_network: bool = False
    user: str | None = None

    def __post_init__(self) -> None:
        try:
            loopback = ipaddress.ip_address(self.bind).is_loopback
        except ValueError:
            raise ConfigError(f"broker {self.name}: bind {self.bind!r} is no IP address") from None
        if not loopback and not self.open_to_network:
            raise ConfigError(
                f"broker {self.name}: bind {self.bind} would let anybody in; use 127.0.0.1, "
                "or give --open-to-network in a network of your own"
            )

    @property
    def reachable_host(self) -> str:
        """An address of this machine at which the broker answers."""
        if not ipaddress.ip_address(self.bind).is_unspecified:
            return self.bind
        return "::1" if ":" in self.bind else "127.0.0.1"

    @property
    def url(self) -> str:
        host = self.reachable_host
        return f"mqtt://[{host}]:{self.port}" if ":" in host else f"mqtt://{host}:{self.port}"


def control_settings(*, port: int = 0, persistence_location: Path | None = None) -> BrokerSettings:
    """For state and inputs: small messages that outlive the broker's process."""
    return BrokerSettings(
        name="control",
        port=port,
        max_packet_size=4 * MIB,
        max_inflight_messages=256,
        max_queued_messages=10_000,
        max_queued_bytes=32 * MIB,
        max_keepalive=600,
        persistent_client_expiration="7d",
        persistence=True,
        persistence_location=persistence_location,
    )


def data_settings(*, port: int = 0) -> BrokerSettings:
    """For activations: nothing on disk, little in the queue."""
    return BrokerSettings(
        name="data",
        port=port,
        max_packet_size=MIB,
        max_inflight_messages=256,
        max_queued_messages=1_000,
        max_queued_bytes=256 * MIB,
        max_keepalive=60,
        persistent_client_expiration="1h",
        persistence=False,
    )


# What `broker/compose.yaml` deploys; the files beside it hold `render` of these.
SITE_SETTINGS: Final = {
    "control.conf": control_settings(port=1883, persistence_location=Path("/mosquitto/data")),
    "data.conf": data_settings(port=1884),
}


class _Directive(NamedTuple):
    line: str
    reason: str


def render(settings: BrokerSettings) -> str:
    """The text of a mosquitto.conf (2.0.11 and later), each directive below its reason."""
    title = f"# The {settings.name} broker of dsi-mqtt; broker/README.md has the figures."
    directives = (
        *_access(settings),
        *_limits(settings),
        *_persistence(settings),
        *_LOGGING,
    )
    blocks = ["\n".join([*_comment(reason), line]) for line, reason in directives]
    return "\n\n".join([title, *blocks]) + "\n"


def _comment(reason: str) -> list[str]:
    return [f"# {line}" for line in reason.splitlines()]


def _access(settings: BrokerSettings) -> list[_Directive]:
    access = [
        _Directive(
            f"listener {settings.port} {settings.bind}",
            "Whoever reaches this address is let in: loopback only, until the broker is locked.",
        ),
        _Directive("allow_anonymous true", "Mosquitto 2 refuses clients without a name otherwise."),
    ]
    if settings.user is not None:
        access.append(
            _Directive(f"user {settings.user}", "The database belongs to whoever starts it.")
        )
    return access


def _limits(settings: BrokerSettings) -> list[_Directive]:
    return [
        _Directive(
            "set_tcp_nodelay true", "Off by default: small messages then stall for up to 40 ms."
        ),
        _Directive(
            f"max_packet_size {settings.max_packet_size}",
            "Bytes. No limit up to 2.0, 2,000,000 from 2.1: set, so that versions agree. A larger\n"
            "packet disconnects its sender; message_size_limit would drop it in silence.",
        ),
        _Directive(
            f"max_inflight_messages {settings.max_inflight_messages}",
            "Also the receive maximum a publisher is granted (20 by default): four times the 64\n"
            "that a connection of ours holds.",
        ),
        _Directive(
            f"max_queued_messages {settings.max_queued_messages}",
            "Waiting for one client, of any QoS; more are acknowledged and dropped. All credits\n"
            "granted for one receiver together stay under half of it.",
        ),
        _Directive(
            f"max_queued_bytes {settings.max_queued_bytes}",
            "Waiting for one client at QoS 1; QoS 0 is bounded by the count alone."
            + ("\nEvery change saves all of it again." if settings.persistence else ""),
        ),
        _Directive(
            f"max_keepalive {settings.max_keepalive}",
            "Seconds: a peer that vanished without a word is noticed after 1.5 times this.",
        ),
        _Directive(
            f"persistent_client_expiration {settings.persistent_client_expiration}",
            "MQTT sessions whose clients never came back are forgotten after this long.",
        ),
    ]


def _persistence(settings: BrokerSettings) -> list[_Directive]:
    if not settings.persistence:
        return [_Directive("persistence false", "Tensors must not wait for a disk.")]
    directives = [
        _Directive("persistence true", "Tables, node states and queued inputs survive a crash."),
        _Directive(
            "autosave_on_changes true",
            "Count changes, not seconds: the default may lose 30 minutes of acknowledged state.",
        ),
        _Directive("autosave_interval 1", "Save at every change."),
    ]
    if settings.persistence_location is not None:
        directives.insert(
            1,
            _Directive(
                f"persistence_location {settings.persistence_location}/",
                "The folder of the database, writable for the broker's user.",
            ),
        )
    return directives


_LOGGING: Final = (
    _Directive("log_dest stderr", "To whoever started it: a terminal, systemd, a container."),
    _Directive("log_type error", "What cannot be used: a port, a file."),
    _Directive("log_type warning", "What is deprecated or insecure."),
    _Directive("log_type notice", "What was dropped because a queue is full."),
    _Directive("connection_messages false", "Clients come and go; the log is for what went wrong."),
)


if __name__ == "__main__":
    import sys

    for file_name, site_settings in SITE_SETTINGS.items():
        Path(sys.argv[1], file_name).write_text(render(site_settings))
