"""Broker URLs: `mqtt://[user:password@]host[:port]`, IPv6 hosts in brackets."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from dsi_mqtt.errors import ConfigError

DEFAULT_PORT: Final = 1883
EXAMPLE: Final = "mqtt://host:1883"


class BrokerAddress(NamedTuple):
    """Where a broker listens. `str()` leaves the credentials out, so it may be shown and logged."""

    host: str
    port: int = DEFAULT_PORT
    username: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_broker_url(url: str) -> BrokerAddress:
    """The address in `url`. Raises ConfigError, naming the URL without its password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"broker URL {url!r} is malformed ({error}); use {EXAMPLE}") from None
    shown = url if parts.password is None else _without_password(parts)
    if parts.scheme == "mqtts":
        raise ConfigError(f"broker URL {shown!r}: TLS is not supported yet; use {EXAMPLE}")
    if parts.scheme != "mqtt":
        raise ConfigError(f"broker URL {shown!r} does not begin with mqtt://; use {EXAMPLE}")
    if not parts.hostname or port == 0:
        raise ConfigError(f"broker URL {shown!r} lacks a host or a usable port; use {EXAMPLE}")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(f"broker URL {shown!r} goes on after the port; use {EXAMPLE}")
    return BrokerAddress(
        parts.hostname,
        DEFAULT_PORT if port is None else port,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
    )


def _without_password(parts: SplitResult) -> str:
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}").geturl()
