"""What a standing system must let be done to it; `cli/chaos_site.py` is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from dsi_mqtt.shaping.link import ShapedLink
from dsi_mqtt.transport.mosquitto import MosquittoProcess

# What a node's link has to bear, both ways, with a part of each deployment: ten inputs a second and
# the generations beside them, with room to recover in.
NEEDED_MBIT_S: Final = 2.0

# Told of a process that ended: its name and its exit code.
Ended = Callable[[str, int], None]


class Ground(Protocol):
    """Brokers, nodes and orchestrators, each a process, the latter two each behind a link.

    nodes, orchestrators: their names. Names of processes are unique.
    """

    @property
    def url(self) -> str:
        """Of the control broker, without a link."""
        ...

    @property
    def data_url(self) -> str: ...

    @property
    def control(self) -> MosquittoProcess: ...

    @property
    def data(self) -> MosquittoProcess: ...

    @property
    def nodes(self) -> tuple[str, ...]: ...

    @property
    def orchestrators(self) -> tuple[str, ...]: ...

    def pid(self, name: str) -> int:
        """Of the newest process of that name."""
        ...

    def link(self, name: str) -> ShapedLink: ...

    async def kill(self, name: str) -> None:
        """As a power cut; returns when the process is gone."""
        ...

    async def start(self, name: str) -> None:
        """The same again, as a new process."""
        ...

    def skew(self, name: str, seconds: float) -> None:
        """From now on that process's wall clock goes so much before the true one."""
        ...

    def tail(self, name: str) -> str:
        """The last lines of what that process wrote."""
        ...


def carried(ground: Ground) -> frozenset[str]:
    """The nodes whose links bear now what passes a node of the chain."""
    return frozenset(n for n in ground.nodes if ground.link(n).mbit_s >= NEEDED_MBIT_S)
