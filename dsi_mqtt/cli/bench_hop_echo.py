"""Our side of the echo that `dsi-mqtt bench hop` measures: the program beside the C baseline.

    python -m dsi_mqtt.cli.bench_hop_echo pong --port P --tag T --bytes B
    python -m dsi_mqtt.cli.bench_hop_echo ping --port P --tag T --bytes B --messages N

The same options, the same "ready" and the same JSON object as `bench_data/hop.c`. Between two
nodes as the worker's: an edge with credits each way, and the activation port on a data connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, NoReturn

import numpy as np

from dsi_mqtt import __version__
from dsi_mqtt.cli.bench_statistics import spread
from dsi_mqtt.cli.child import end_with_parent
from dsi_mqtt.core.activation import Row, Tensor
from dsi_mqtt.core.draft import credit_window
from dsi_mqtt.core.edges import EdgeKey, IncomingEdge, OutgoingEdge
from dsi_mqtt.core.effects import Effects, Transmit
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.table import Hop, Stamp
from dsi_mqtt.errors import DsiError, WireError
from dsi_mqtt.transport.base import ConnectOptions, DataConnection
from dsi_mqtt.transport.loop import run
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.port import ActivationPort

PING: Final = "ping"
PONG: Final = "pong"
READY: Final = "ready"

_STAMP: Final = Stamp(1, "bench", 1)
_TICK_S: Final = 0.05  # as often as a worker's
_DEADLINE_S: Final = 30.0
_NUMBER_BYTES: Final = 4  # of the message, at the payload's beginning, as the baseline's


@dataclass(frozen=True, slots=True)
class EchoOptions:
    """What both ends are told. nbytes: of the tensor; warmup: messages before the first sample."""

    role: str
    host: str
    port: int
    tag: str
    nbytes: int
    messages: int
    warmup: int
    samples: bool

    @property
    def peer(self) -> str:
        return PONG if self.role == PING else PING


class EchoNode:
    """One end: an edge to the peer, one from it, and the port they share.

    take: called with each activation once its room on the edge is free again, as a worker's is
    when a segment has computed it.
    """

    def __init__(self, options: EchoOptions, take: Callable[[Activation], None]) -> None:
        me, peer, tag = options.role, options.peer, options.tag
        window = credit_window(options.nbytes)
        self._out = OutgoingEdge(
            EdgeKey(tag, _STAMP, me, peer, me, peer), peer, Hop(me, peer, {}, *window)
        )
        self._in = IncomingEdge(
            EdgeKey(tag, _STAMP, peer, me, peer, me), peer, Hop(peer, me, {}, *window)
        )
        self._take = take
        self._port = ActivationPort(
            me, Topics(), arrived=self._arrived, broke=self._broke, clock=time.monotonic
        )

    def send(self, activation: Activation) -> None:
        now = time.monotonic()
        self._perform(self._out.send(activation, now + _DEADLINE_S, now))

    async def serve(self, connection: DataConnection, begin: Callable[[], None]) -> None:
        """Calls `begin` when activations can arrive; runs until it is cancelled."""
        await connection.subscribe(self._port.topic_filter)
        self._port.attach(connection)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._port.send_waiting(connection))
            group.create_task(self._tick())
            begin()
            async for message in connection.messages():
                self._port.receive(message)

    def _arrived(self, activation: Activation) -> None:
        header, now = activation.header, time.monotonic()
        if header.credit is not None:
            credit = header.credit
            self._perform(
                self._in.probed(credit, now) if credit.probe else self._out.grant(credit, now)
            )
            return
        if header.edge is None:
            raise WireError("echo: an activation came without the mark of its edge")
        nbytes = activation.nbytes
        self._in.arrived(header.edge, nbytes, now)
        self._perform(self._in.finished(nbytes, now))
        self._take(activation)

    def _broke(self, header: Header) -> NoReturn:
        raise WireError(f"echo: an activation from {header.source} came damaged or with a gap")

    def _perform(self, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Transmit):
                self._port.send(effect.receiver, effect.activation)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self._port.tick()
            self._perform(self._out.tick(now)[0])
            self._perform(self._in.tick(now))


class Pong:
    """Sends every tensor back over the edge of its own, until it is told to end."""

    def __init__(self, options: EchoOptions, ended: asyncio.Future[None]) -> None:
        self._ended = ended
        self._node = EchoNode(options, self._take)

    async def serve(self, connection: DataConnection) -> None:
        await self._node.serve(connection, lambda: print(READY, flush=True))

    def _take(self, activation: Activation) -> None:
        header = activation.header
        if header.kind == "done":
            self._ended.set_result(None)
            return
        back = replace(header, source=header.target, target=header.source, edge=None)
        self._node.send(Activation(back, activation.tensors))


class Ping:
    """Sends a tensor, waits until it is back, sends the next; `half_us` holds the samples."""

    def __init__(self, options: EchoOptions, ended: asyncio.Future[None]) -> None:
        self._options = options
        self._ended = ended
        self._node = EchoNode(options, self._take)
        # The baseline's bytes: nothing on the way may profit from zeros.
        numbers = np.arange(options.nbytes, dtype=np.uint32) * np.uint32(2654435761)
        self._payload = bytearray((numbers >> 24).astype(np.uint8).tobytes())
        self._sent = 0
        self._started = 0.0
        self.half_us: list[float] = []

    async def serve(self, connection: DataConnection) -> None:
        await self._node.serve(connection, self._send_next)

    def _send_next(self) -> None:
        self._sent += 1
        self._payload[:_NUMBER_BYTES] = self._sent.to_bytes(_NUMBER_BYTES, "little")
        header = Header(
            "request",
            self._options.tag,
            _STAMP,
            self._options.role,
            self._options.peer,
            self._sent.to_bytes(16, "big"),
            door=PING,
            rows=(Row(),),
        )
        data = memoryview(self._payload)
        self._started = time.monotonic()
        self._node.send(Activation(header, (Tensor("hidden_states", "uint8", (len(data),), data),)))

    def _take(self, activation: Activation) -> None:
        took = time.monotonic() - self._started
        # A bytearray compares itself with any buffer, and copies neither.
        if self._payload != activation.tensors[0].data:  # type: ignore[comparison-overlap]
            raise WireError("echo: the tensor that came back is not the one that was sent")
        if self._sent > self._options.warmup:
            self.half_us.append(took / 2 * 1e6)
        if self._sent < self._options.warmup + self._options.messages:
            self._send_next()
        else:
            header = Header("done", self._options.tag, _STAMP, PING, PONG)
            self._node.send(Activation(header))
            self._ended.set_result(None)


async def echo(options: EchoOptions) -> list[float]:
    """Runs one end until ping has all its samples; they are ping's half round trips in µs."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    end = (Ping if options.role == PING else Pong)(options, ended)
    connection = await MqttTransport().data(
        f"mqtt://{options.host}:{options.port}", ConnectOptions()
    )
    serving = asyncio.create_task(end.serve(connection))
    try:
        await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await connection.close()
    return end.half_us if isinstance(end, Ping) else []


def parse(arguments: Sequence[str] | None = None) -> EchoOptions:
    parser = argparse.ArgumentParser(prog="bench_hop_echo", description="One end of an echo.")
    parser.add_argument("role", choices=(PING, PONG))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--tag", default="hop")
    parser.add_argument("--qos", type=int, choices=(0,), default=0)
    parser.add_argument("--bytes", type=int, default=1024)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--samples", action="store_true", help="print every sample too")
    given = parser.parse_args(arguments)
    return EchoOptions(
        given.role,
        given.host,
        given.port,
        given.tag,
        given.bytes,
        given.messages,
        given.warmup,
        given.samples,
    )


def report(options: EchoOptions, half_us: list[float]) -> dict[str, object]:
    """What ping prints, as the baseline does."""
    found = spread([half_us])
    return {
        "pattern": "echo_half_round_trip",
        "name": "dsi-mqtt",
        "version": __version__,
        "qos": 0,
        "bytes": options.nbytes,
        "messages": options.messages,
        **({"samples_us": [round(us, 1) for us in half_us]} if options.samples else {}),
        **{f"{name}_us": round(value, 1) for name, value in asdict(found).items()},
    }


def main() -> None:
    end_with_parent()
    options = parse()
    try:
        half_us = run(echo(options))
    except* DsiError as errors:
        print(f"hop: {_first(errors)}", file=sys.stderr)
        sys.exit(1)
    if options.role == PING:
        print(json.dumps(report(options, half_us)))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    main()
