"""Connections that keep others waiting are ended. Bounds are small here, and waited for."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import select
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from typing import Any

import httpx2
import openai
import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from dsi_mqtt.core.generation import Partial, rolling_hash
from dsi_mqtt.gateway import connections
from dsi_mqtt.gateway.connections import (
    SENDING_MAX,
    TAKEN_LEAST,
    Bounds,
    acked,
    bound_kernel,
    bounded,
    kept_by_kernel,
)
from dsi_mqtt.gateway.server import BOUNDS, listen
from dsi_mqtt.wire.asks import partial_answer
from tests.client.door import PATIENCE_S, Asked
from tests.gateway.gateways import Live, live_gateway

ASK = b'{"model": "chat", "prompt": "x", "stream": true}'
HEALTH = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"
SOON = 0.05


def post(body: bytes, length: int | None = None) -> bytes:
    """A request for a completion. length: what its head says of the body."""
    size = len(body) if length is None else length
    head = f"POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


async def endless(asked: Asked) -> None:
    told = ""
    for index in itertools.count():
        told = rolling_hash(told, [index])
        partial = Partial(1, index, (index,), "on and " * 1000, told)
        await asked.send(partial_answer(asked.parsed.identity, partial))


@asynccontextmanager
async def connected(live: Live) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    """Status and body of the next answer of a connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(
        int(line.partition(":")[2])
        for line in head.splitlines()
        if line.lower().startswith("content-length:")
    )
    return int(head.split()[1]), json.loads(await reader.readexactly(length))


# --- an answer that nobody reads ------------------------------------------------------------------


async def test_a_stream_that_nobody_reads_gives_its_place_back_and_is_cancelled() -> None:
    bounds = Bounds(stall_s=SOON)
    async with live_gateway(open_max=1, bounds=bounds) as live, live.openai() as client:
        live.door.script = endless
        with closing(socket.create_connection(("127.0.0.1", live.port))) as deaf:
            deaf.sendall(post(ASK))
            await live.door.until(lambda: bool(live.door.cancels))
            asked = live.door.inputs[0].correlation_data
            assert live.door.cancels[0].correlation_data == asked
            live.door.script = fixed(4)
            whole = await client.completions.create(model="chat", prompt="x")
            assert whole.choices[0].finish_reason == "length"


def fixed(size: int) -> Callable[[Asked], Any]:
    """Completes at once, with a text of `size` bytes."""

    async def script(asked: Asked) -> None:
        text = "a" * size
        told = {
            "text": text,
            "tokens": [],
            "take": 1,
            "hash": "",
            "finish_reason": "length",
            "usage": {"prompt_tokens": 1},
        }
        await asked.result(told)

    return script


async def test_an_answer_that_nobody_reads_ends_its_connection() -> None:
    async with live_gateway(bounds=Bounds(stall_s=SOON)) as live:
        live.door.script = fixed(20 * SENDING_MAX)
        with closing(socket.create_connection(("127.0.0.1", live.port))) as deaf:
            deaf.sendall(post(b'{"model": "chat", "prompt": "x"}'))
            ends = select.poll()
            ends.register(deaf, 0)
            ((_, event),) = await asyncio.to_thread(ends.poll, PATIENCE_S * 1000)
            assert event & select.POLLERR


def test_what_is_accepted_keeps_little_to_send() -> None:
    with closing(listen("127.0.0.1", 0, may_be_open=False)) as listening:
        bound_kernel(listening)
        with closing(socket.create_connection(listening.getsockname())):
            accepted, _ = listening.accept()
            with closing(accepted):
                kept = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert kept <= 2 * SENDING_MAX  # of which the kernel takes half for itself


def test_the_kernel_says_what_has_been_taken() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        reading = socket.create_connection(listening.getsockname())
        writing, _ = listening.accept()
    written = 0
    with closing(reading), closing(writing):
        assert (acked(writing), kept_by_kernel(writing)) == (0, 0)
        writing.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                written += writing.send(bytes(100_000))
        assert kept_by_kernel(writing) > 0
        assert acked(writing) < written
        reading.settimeout(PATIENCE_S)
        left = written
        while left:
            left -= len(reading.recv(left))
        assert acked(writing) + kept_by_kernel(writing) == written
    assert kept_by_kernel(writing) == 0


# --- a request that does not come -----------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"", b"POST /v1/comp", b"GET /health HTTP/1.1\r\nHost: h"])
async def test_a_head_that_does_not_come_ends_the_connection(begun: bytes) -> None:
    async with (
        live_gateway(bounds=Bounds(head_s=SOON)) as live,
        connected(live) as (reader, writer),
    ):
        writer.write(begun)
        assert await reader.read() == b""


async def test_a_body_that_does_not_come_is_told_and_ends_the_connection() -> None:
    async with live_gateway(body_s=SOON) as live, connected(live) as (reader, writer):
        writer.write(post(b'{"model":', length=100))
        status, told = await answer(reader)
        assert status == 408
        assert told["error"]["message"] == "the body has not come within 0.05 s; send it at once"
        assert told["error"]["type"] == "invalid_request_error"
        assert await reader.read() == b""


async def test_a_body_that_is_refused_unread_is_not_waited_for() -> None:
    """However much of it still comes: the time is that from the answer to the next request."""
    async with (
        live_gateway(body_max=10, bounds=Bounds(head_s=SOON)) as live,
        connected(live) as (reader, writer),
    ):
        writer.write(post(b" " * 20, length=10_000_000))
        assert (await answer(reader))[0] == 413
        await go_on(writer)


async def go_on(writer: asyncio.StreamWriter) -> None:
    """Sends until the connection has ended."""
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0)


async def test_connections_at_once_are_bounded() -> None:
    async with (
        live_gateway(bounds=Bounds(at_once=2)) as live,
        connected(live) as (first, writer),
        connected(live),
    ):
        async with live.openai() as client:
            with pytest.raises(openai.InternalServerError, match="too many conn") as raised:
                await client.models.list()
            assert (raised.value.status_code, raised.value.code) == (503, "unavailable")
            assert raised.value.response.headers["retry-after"] == "2"
        async with connected(live), connected(live) as (reader, _):
            with pytest.raises(ConnectionResetError):  # more than are even told so
                await reader.read()
        writer.write(HEALTH)
        assert (await answer(first))[0] == 200


async def test_who_has_left_counts_no_more() -> None:
    async with live_gateway(bounds=Bounds(at_once=1)) as live:
        for _ in range(4):
            async with httpx2.AsyncClient(base_url=live.url, timeout=30) as http:
                while (await http.get("/health")).status_code != 200:
                    pass


# --- one connection, on virtual time --------------------------------------------------------------


class Timer:
    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        self.act = None


async def empty(_scope: object, _receive: object, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wire is its own kernel."""
    monkeypatch.setattr(connections, "kept_by_kernel", lambda own: _told(own, kept_by_kernel))
    monkeypatch.setattr(connections, "acked", lambda own: _told(own, acked))


def _told(own: Any, real: Callable[[Any], int]) -> int:
    if not isinstance(own, Wire):
        return real(own)
    return own.acked if real is acked else own.kernel


class Wire:
    """The loop and the transport of one connection, and what became of it.

    waits, kernel: bytes of answers that wait here and in the kernel. acked: those that are taken.
    """

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.now = 0.0
        self.waits = self.kernel = self.acked = 0
        self.became = ["open"]
        self.timers: list[Timer] = []
        self.asked: list[Coroutine[Any, Any, None]] = []
        config = Config(empty, http=bounded(bounds), lifespan="off", log_config=None)
        loop: Any = self
        self.connection = bounded(bounds)(config, ServerState(), {}, loop)
        transport: Any = self
        self.connection.connection_made(transport)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [t for t in self.timers if t.act is not None and t.at <= end]:
            timer = min(due, key=lambda due: due.at)
            self.now, act, timer.act = timer.at, timer.act, None
            assert act is not None
            act()
        self.now = end

    def call_later(self, delay: float, act: Callable[..., None], *given: object) -> Timer:
        self.timers.append(Timer(self.now + delay, lambda: act(*given)))
        return self.timers[-1]

    def create_task(self, asked: Coroutine[Any, Any, None]) -> Any:
        self.asked.append(asked)
        return self

    def add_done_callback(self, _: object) -> None:
        pass

    def ask(self) -> None:
        self.connection.data_received(HEALTH)
        assert self.asked

    def answer(self) -> None:
        """What is asked is answered, with as good as nothing."""
        with pytest.raises(StopIteration):
            self.asked.pop().send(None)

    def end(self) -> None:
        """What is asked is never answered."""
        self.asked.pop().close()

    def write(self, data: bytes) -> None:
        """It is taken at once."""

    def take(self, nbytes: int) -> None:
        self.kernel -= nbytes
        self.acked += nbytes

    def get_write_buffer_size(self) -> int:
        return self.waits

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_extra_info(self, name: str) -> Any:
        return self if name == "socket" else None

    def setsockopt(self, *_: object) -> None:
        pass

    def getsockname(self) -> tuple[str, int]:
        return "here", 0

    def getpeername(self) -> tuple[str, int]:
        return "there", 0

    def is_closing(self) -> bool:
        return self.became != ["open"]

    def close(self) -> None:
        self.became.append("closed")

    def abort(self) -> None:
        self.became.append("aborted")


def test_a_slow_reader_is_waited_for_as_long_as_it_reads() -> None:
    """Whatever has become less here: the kernel holds more of it, or less."""
    wire = Wire()
    wire.waits = 20_000
    wire.kernel = 1_000_000
    wire.run(BOUNDS.stall_s)
    for _ in range(10):
        wire.take(round(TAKEN_LEAST * BOUNDS.stall_s))
        wire.run(BOUNDS.stall_s)
        assert wire.became == ["open"]
    wire.take(round(TAKEN_LEAST * BOUNDS.stall_s) - 1)
    wire.run(BOUNDS.stall_s)
    assert wire.became == ["open", "aborted"]


def test_what_comes_meanwhile_is_no_fault_of_the_reader() -> None:
    wire = Wire(Bounds(head_s=1e6))
    for _ in range(5):
        wire.kernel += 5000
        wire.run(BOUNDS.stall_s)
        wire.take(5000)
        wire.kernel += 50_000
        wire.ask()
        wire.run(BOUNDS.stall_s)
        assert wire.became == ["open"]
        wire.answer()
        wire.take(50_000)


def test_a_little_that_nobody_takes_ends_a_connection_too() -> None:
    """As of a stream to one that has gone, of which the kernel would keep a lot."""
    wire = Wire()
    wire.ask()
    wire.kernel = 10
    wire.run(2 * BOUNDS.stall_s)
    assert wire.became == ["open", "aborted"]
    wire.end()


def test_who_has_nothing_to_read_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    wire.ask()
    wire.run(10 * BOUNDS.stall_s)
    assert wire.became == ["open"]
    wire.end()
    monkeypatch.setattr(connections, "TELLS", False)
    wire = Wire()
    wire.ask()
    wire.kernel = 10
    wire.run(10 * BOUNDS.stall_s)
    assert wire.became == ["open"], "where no kernel says what was taken"
    wire.end()


def test_between_requests_the_rest_of_an_answer_is_waited_for() -> None:
    wire = Wire()
    wire.waits = 100
    wire.run(BOUNDS.head_s)
    assert wire.became == ["open"]
    wire.waits = 0
    wire.acked = 100
    wire.run(BOUNDS.head_s)
    assert wire.became == ["open", "closed"]


def test_the_next_head_has_all_its_time_from_the_last_answer_on() -> None:
    wire = Wire()
    for _ in range(2):
        wire.run(BOUNDS.head_s - 0.1)
        wire.ask()
        wire.run(10 * BOUNDS.head_s)
        wire.answer()
    wire.connection.data_received(b"GET /health HT")
    wire.run(BOUNDS.head_s - 0.1)
    assert wire.became == ["open"]
    wire.run(0.1)
    assert wire.became == ["open", "closed"]


def test_whoever_has_gone_leaves_no_timer() -> None:
    wire = Wire()
    wire.connection.connection_lost(None)
    assert [timer for timer in wire.timers if timer.act is not None] == []
