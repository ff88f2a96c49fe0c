"""Inputs out, answers back, over connections that come and go: the shell of `core/client.py`."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

from dsi_mqtt.core.activation import JSON
from dsi_mqtt.core.client import (
    ClientEffect,
    ClientEffects,
    PendingInputs,
    SendAlive,
    SendCancel,
    SendInput,
)
from dsi_mqtt.core.generation import Partial
from dsi_mqtt.core.message import Priority
from dsi_mqtt.errors import (
    ConnectionLostError,
    DeadlineError,
    DsiError,
    InvalidInputError,
    RequestCancelledError,
    TooLargeError,
    TransportError,
    UnknownDeploymentError,
)
from dsi_mqtt.transport.base import ConnectOptions, DataConnection, Message, Transport
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.wire.asks import read_partial
from dsi_mqtt.wire.inputs import PRIORITY
from dsi_mqtt.wire.topics import Topics

TICK_S: Final = 0.1
CLOSE_S: Final = 2.0
RECONNECT: Final = Backoff(last_s=3.0)
ID_BYTES: Final = 16
SESSION_S: Final = 10

_SILENCE: Final = (
    "no answer in time; `dsi-mqtt status` shows whether it serves: if so, raise timeout_s"
)
_TOO_SLOW: Final = (
    "the text had begun and did not end in time; raise timeout_s, or lower max_tokens"
)


@dataclass(slots=True)
class Call:
    """An input whose answer somebody waits for, until `deadline` (monotonic seconds).

    told: what gets the messages of its stream. heard: whether any has come.
    """

    id: bytes
    message: Message
    deadline: float
    answer: asyncio.Future[Message]
    told: Callable[[Partial], None] | None = None
    heard: bool = False


class Delivery:
    """Keeps one device connected, its inputs sent and its answers sorted."""

    def __init__(self, url: str, device: str, topics: Topics, transport: Transport) -> None:
        self._url = url
        self._device = device
        self._topics = topics
        self._transport = transport
        self._client_id = f"client-{os.urandom(ID_BYTES).hex()}"
        self._fresh = True
        self.pending = PendingInputs()
        self._calls: dict[bytes, Call] = {}
        self._connection: DataConnection | None = None
        self._subscribed: set[str] = set()
        self._known: dict[str, bool] = {}
        self._markers: dict[bytes, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def open(self) -> None:
        """Connects. Raises BrokerUnreachableError or BrokerRefusedError."""
        first = await self._connect()
        waiting: list[DataConnection] = [first]

        async def connect() -> DataConnection:
            return waiting.pop() if waiting else await self._connect()

        self._tasks = [
            asyncio.create_task(
                keep_connected(connect, self._serve, backoff=RECONNECT), name="client"
            ),
            asyncio.create_task(self._tick(), name="client tick"),
        ]

    async def close(self) -> None:
        """Cancels what is open; whoever still waits for it is told."""
        for call in list(self._calls.values()):
            self.leave(call.id)
            if not call.answer.done():
                error = RequestCancelledError("the client was closed before there was an answer")
                call.answer.set_exception(error)
        if self._sending:
            await asyncio.wait(self._sending, timeout=CLOSE_S)
        connection = self._connection
        for task in [*self._tasks, *self._sending]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._sending, return_exceptions=True)
        if connection is not None:
            await connection.close()

    # --- what callers do ----------------------------------------------------------------------

    async def known(self, deployment: str, deadline: float) -> None:
        """Subscribes to the answers, and looks whether there is such a deployment at all.

        Raises UnknownDeploymentError, or DeadlineError.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._check_known(deployment)
        except TimeoutError:
            raise DeadlineError("no answer in time: the broker does not answer") from None

    def submit(
        self,
        deployment: str,
        body: bytes,
        content_type: str,
        deadline: float,
        *,
        told: Callable[[Partial], None] | None = None,
        generates: bool = False,
        priority: Priority = "normal",
    ) -> Call:
        """Sends an input, until it is answered or its deadline passes. `leave` it in any case."""
        id_ = os.urandom(ID_BYTES)
        message = Message(
            self._topics.input.name(deployment=deployment, device=self._device),
            body,
            qos=1,
            content_type=content_type,
            response_topic=self._topics.answers(deployment, self._device) + "result",
            correlation_data=id_,
            user_properties=((PRIORITY, priority),) if priority != "normal" else (),
        )
        call = Call(id_, message, deadline, asyncio.get_running_loop().create_future(), told)
        # An error that nobody waits for any more is no event.
        call.answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._calls[id_] = call
        name = deployment if generates else None
        now = time.monotonic()
        self._act(self.pending.submitted(id_, deadline, now, generates=name))
        return call

    def leave(self, id_: bytes) -> None:
        """Nobody waits for this answer any more; a generation that still runs is cancelled."""
        self._calls.pop(id_, None)
        self._act(self.pending.left(id_, time.monotonic()))

    # --- connection ---------------------------------------------------------------------------

    async def _connect(self) -> DataConnection:
        """On the same MQTT session: a door gives up a stream that nobody is subscribed to."""
        options = ConnectOptions(
            self._client_id, clean_start=self._fresh, session_expiry_s=SESSION_S
        )
        connection = await self._transport.data(self._url, options)
        self._fresh = False
        return connection

    async def _serve(self, connection: DataConnection) -> None:
        try:
            # Read from the beginning: what the session kept comes before any answer to a
            # subscription, and behind a full inbox none would be read.
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(connection), name="client listens")
                for deployment in list(self._subscribed):
                    await self._subscribe(connection, deployment)
                await connection.subscribe(self._marker_topic, qos=1)
                self._connection = connection
                self._act(self.pending.connected(time.monotonic()))
        finally:
            self._connection = None
            self.pending.disconnected()
            self._known.clear()
            for waiting in self._markers.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionLostError("the broker went away"))

    async def _listen(self, connection: DataConnection) -> None:
        async for message in connection.messages():
            self._receive(message)
            connection.acknowledge(message)

    async def _subscribe(self, connection: DataConnection, deployment: str) -> None:
        await connection.subscribe(self._topics.answers(deployment, self._device) + "#", qos=1)
        await connection.subscribe(self._topics.spec.name(deployment=deployment), qos=1)

    def _receive(self, message: Message) -> None:
        spec = self._topics.spec.parts(message.topic)
        if spec is not None:
            self._known[spec["deployment"]] = bool(message.payload)
        elif message.topic == self._marker_topic:
            waiting = self._markers.pop(bytes(message.payload), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        elif message.correlation_data is not None:
            self._receive_answer(message.correlation_data, message)

    def _receive_answer(self, id_: bytes, message: Message) -> None:
        partial = read_partial(bytes(message.payload))
        call = self._calls.get(id_)
        if partial is not None:
            self.pending.heard(id_, time.monotonic())
            if call is not None and call.told is not None:
                call.heard = True
                call.told(partial)
        elif self.pending.answered(id_) and call is not None and not call.answer.done():
            call.answer.set_result(message)

    @property
    def _marker_topic(self) -> str:
        return self._topics.echo.name(node=f"client-{self._device}")

    async def _check_known(self, deployment: str) -> None:
        """A marker published behind the subscription comes back after everything retained."""
        if self._known.get(deployment):
            return
        connection = self._connection
        while connection is None:
            await asyncio.sleep(TICK_S)
            connection = self._connection
        marker, known = os.urandom(ID_BYTES), False
        waiting = self._markers[marker] = asyncio.get_running_loop().create_future()
        # A connection that is lost while the marker is published is no event of its own.
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._subscribed.add(deployment)
        try:
            await self._subscribe(connection, deployment)
            await connection.publish(Message(self._marker_topic, marker, qos=1))
            await waiting
            known = self._known.get(deployment, False)
        except ConnectionLostError:
            known = True  # or not: that is asked again with the next input
        finally:
            self._markers.pop(marker, None)
            if not known:
                self._forget(deployment)
        if not known:
            raise UnknownDeploymentError(
                f"deployment {deployment!r} does not exist on this broker; "
                "`dsi-mqtt status` lists those that do"
            )

    def _forget(self, deployment: str) -> None:
        """It is not subscribed to again, unless an answer is waited for all the same."""
        topic = self._topics.input.name(deployment=deployment, device=self._device)
        if all(call.message.topic != topic for call in self._calls.values()):
            self._subscribed.discard(deployment)

    # --- sending ------------------------------------------------------------------------------

    def _act(self, effects: ClientEffects) -> None:
        for effect in effects:
            self._do(effect)

    def _do(self, effect: ClientEffect) -> None:
        if isinstance(effect, SendAlive):
            topic = self._topics.alive.name(deployment=effect.deployment, device=self._device)
            self._start(self._send(Message(topic)))
        elif isinstance(effect, SendCancel):
            topic = self._topics.cancel.name(deployment=effect.deployment, device=self._device)
            self._start(
                self._send(
                    Message(topic, b"{}", qos=1, content_type=JSON, correlation_data=effect.id)
                )
            )
        elif (call := self._calls.get(effect.id)) is None:
            return
        elif isinstance(effect, SendInput):
            self._start(self._send_input(call))
        elif not call.answer.done():
            call.answer.set_exception(DeadlineError(_TOO_SLOW if call.heard else _SILENCE))

    def _start(self, sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(sending, name="send")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, message: Message) -> None:
        """What is lost on the way is sent again by itself."""
        connection = self._connection
        if connection is not None:
            try:
                await connection.publish(message)
            except TransportError:
                return

    async def _send_input(self, call: Call) -> None:
        connection = self._connection
        if connection is None:
            return
        # What still waits at the broker when nobody wants it any more is not to be computed.
        expiry_s = max(1, math.ceil(call.deadline - time.monotonic()))
        try:
            await connection.publish(replace(call.message, expiry_s=expiry_s))
        except ConnectionLostError:
            return  # sent again on the next connection
        except TooLargeError:
            limit = connection.limits.max_packet_size
            size = len(call.message.payload)
            sentence = f"the input has {size} bytes, the broker takes {limit} a packet"
            self._fail(call, InvalidInputError(f"{sentence}; send less"))
        except TransportError as error:
            self._fail(call, error)

    def _fail(self, call: Call, error: DsiError) -> None:
        if not call.answer.done():
            call.answer.set_exception(error)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._act(self.pending.tick(time.monotonic()))
