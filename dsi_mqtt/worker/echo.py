"""Messages over the data connection that ask how it is: alive, how far and how wide.

Which ones go when, and what follows from them, is decided in `core/probes.py` and `core/link.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

from dsi_mqtt.core.link import LinkMeter
from dsi_mqtt.core.probes import BYTES_MAX, Probe
from dsi_mqtt.errors import ConnectionLostError, TransportError
from dsi_mqtt.transport.base import DataConnection, Message
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.rhythm import until_beat_s

log = logging.getLogger(__name__)

EVERY_S: Final = 0.5
# The longest beginning of a payload, and what MQTT, TCP and IP put around it.
_HEADERS_BYTES: Final = 24 + 8 + 52


def probe_bytes(topics: Topics, node: str) -> int:
    """What a probe takes without filling."""
    return _HEADERS_BYTES + max(len(topics.echo.name(node=node)), len(topics.probe.name(node=node)))


class Echo:
    """The probes of one node. topic: where it hears those to itself. phase_s: see `rhythm`."""

    def __init__(
        self,
        node: str,
        topics: Topics,
        link: LinkMeter,
        clock: Callable[[], float],
        *,
        phase_s: float = 0.0,
    ) -> None:
        self.topic = topics.echo.name(node=node)
        self._to_nobody = topics.probe.name(node=node)
        self._link = link
        self._clock = clock
        self._phase_s = phase_s
        self._overhead = probe_bytes(topics, node)
        # Of chance, for what lies between may compress.
        self._filling = os.urandom(BYTES_MAX)

    async def send(self, connection: DataConnection) -> None:
        """Runs while `connection` lives."""
        self._link.lost()
        ups: set[asyncio.Task[None]] = set()
        try:
            while True:
                due = self._link.due(
                    self._clock(), full=connection.congested, arriving=connection.arriving
                )
                for probe in due:
                    if probe.kind == "up":
                        task = asyncio.ensure_future(self._send_up(connection, probe))
                        ups.add(task)
                        task.add_done_callback(ups.discard)
                    else:
                        await connection.publish(Message(self.topic, self._payload(probe)))
                await asyncio.sleep(until_beat_s(self._clock(), EVERY_S, self._phase_s))
        finally:
            for task in ups:
                task.cancel()

    def behind(self, connection: DataConnection, nbytes: int, began: float) -> None:
        """An activation of so many bytes was written, the first at `began`.

        Raises ConnectionLostError.
        """
        mark = self._link.behind(nbytes, began, self._clock())
        if mark is not None:
            connection.publish_soon(Message(self.topic, self._payload(mark)))

    async def _send_up(self, connection: DataConnection, probe: Probe) -> None:
        """Its acknowledgement is the answer. That the connection is lost, the next beat finds."""
        try:
            await connection.publish(Message(self._to_nobody, self._payload(probe), qos=1))
        except ConnectionLostError:
            return
        except TransportError as error:
            log.debug("%s: no probes of the way up alone: %s", self._to_nobody, error)
            self._link.unacknowledged()
        else:
            self._link.back(probe.number, self._clock())

    def returned(self, message: Message) -> None:
        kind, _, rest = bytes(message.payload[:32]).partition(b":")
        number = rest.partition(b":")[0]
        if kind == b"echo" and number.isdigit():
            self._link.back(int(number), self._clock())

    def _payload(self, probe: Probe) -> bytes:
        return b"echo:%d:" % probe.number + self._filling[: max(0, probe.nbytes - self._overhead)]
