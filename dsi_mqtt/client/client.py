"""`async with Client(url) as client: await client.infer("name", inputs)`."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from dsi_mqtt.core.activation import JSON, NPY, OCTETS
from dsi_mqtt.core.client import ClientEffects, PendingInputs, SendInput
from dsi_mqtt.errors import (
    ConnectionLostError,
    DeadlineError,
    DsiError,
    InvalidInputError,
    TooLargeError,
    TransportError,
    UnknownDeploymentError,
)
from dsi_mqtt.transport.base import ConnectOptions, DataConnection, Message, Transport
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.inputs import read_answer
from dsi_mqtt.wire.topics import ROOT, Topics, check_device, check_name

TICK_S: Final = 0.1
RECONNECT: Final = Backoff(last_s=3.0)
ID_BYTES: Final = 16
TIMEOUT_S: Final = 60.0


@dataclass(slots=True)
class _Call:
    message: Message
    answer: asyncio.Future[Message]


class Client:
    """Sends inputs to deployments and waits for their results.

    url: of the broker for control and ingress. device: the name answers are addressed to; a
    fresh one by default. An input is kept and sent again until it is answered or its time is up,
    through lost connections and restarts of the broker.
    """

    def __init__(
        self,
        url: str = "mqtt://127.0.0.1:1883",
        *,
        device: str | None = None,
        root: str = ROOT,
        transport: Transport | None = None,
    ) -> None:
        self._url = url
        self._device = check_device(device or f"client-{os.urandom(6).hex()}")
        self._topics = Topics(root)
        self._transport = transport or MqttTransport()
        self._pending = PendingInputs()
        self._calls: dict[bytes, _Call] = {}
        self._connection: DataConnection | None = None
        self._subscribed: set[str] = set()
        self._known: dict[str, bool] = {}
        self._markers: dict[bytes, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def device(self) -> str:
        return self._device

    @property
    def resent(self) -> int:
        """Inputs sent again so far."""
        return self._pending.resent

    @property
    def repeated_answers(self) -> int:
        """Answers that came more than once; the caller saw the first only."""
        return self._pending.repeated_answers

    async def __aenter__(self) -> Self:
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
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection = self._connection
        for task in [*self._tasks, *self._sending]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._sending, return_exceptions=True)
        if connection is not None:
            await connection.close()

    async def infer(
        self,
        deployment: str,
        inputs: Any,  # noqa: ANN401 — any JSON value
        *,
        content_type: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:  # noqa: ANN401 — any JSON value
        """The result for one input.

        inputs: any JSON value (a text, a list of texts, numbers), bytes (an image; name the
        `content_type`), or a numpy array. Returns the result as a JSON value (bytes where the
        model makes something else).

        Raises UnknownDeploymentError, DeadlineError after `timeout_s`, or another RequestError
        that says why there is no result.
        """
        body, kind = _body(inputs, content_type)
        now = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                await self._check_known(check_name(deployment, "deployment"))
        except TimeoutError:
            raise DeadlineError("no answer in time: the broker does not answer") from None
        id_ = os.urandom(ID_BYTES)
        message = Message(
            self._topics.input.name(deployment=deployment, device=self._device),
            body,
            qos=1,
            content_type=kind,
            response_topic=self._topics.answers(deployment, self._device) + "result",
            correlation_data=id_,
        )
        call = _Call(message, asyncio.get_running_loop().create_future())
        self._calls[id_] = call
        try:
            self._act(self._pending.submitted(id_, now + timeout_s, time.monotonic()))
            answer = await call.answer
            return read_answer(bytes(answer.payload), answer.content_type)
        finally:
            self._calls.pop(id_, None)
            self._pending.withdrawn(id_)

    # --- connection ---------------------------------------------------------------------------

    async def _connect(self) -> DataConnection:
        return await self._transport.data(self._url, ConnectOptions())

    async def _serve(self, connection: DataConnection) -> None:
        for deployment in self._subscribed:
            await self._subscribe(connection, deployment)
        await connection.subscribe(self._marker_topic, qos=1)
        self._connection = connection
        self._act(self._pending.connected(time.monotonic()))
        try:
            async for message in connection.messages():
                self._receive(message)
                connection.acknowledge(message)
        finally:
            self._connection = None
            self._pending.disconnected()
            self._known.clear()
            for waiting in self._markers.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionLostError("the broker went away"))

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
            call = self._calls.get(message.correlation_data)
            if self._pending.answered(message.correlation_data) and call is not None:
                call.answer.set_result(message)

    @property
    def _marker_topic(self) -> str:
        return self._topics.echo.name(node=f"client-{self._device}")

    async def _check_known(self, deployment: str) -> None:
        """Subscribes to the answers, and looks whether there is such a deployment at all.

        A marker published behind the subscription comes back after everything retained.
        """
        if self._known.get(deployment):
            return
        connection = self._connection
        while connection is None:
            await asyncio.sleep(TICK_S)
            connection = self._connection
        try:
            await self._subscribe(connection, deployment)
            self._subscribed.add(deployment)
            marker = os.urandom(ID_BYTES)
            waiting = self._markers[marker] = asyncio.get_running_loop().create_future()
            await connection.publish(Message(self._marker_topic, marker, qos=1))
            await waiting
        except ConnectionLostError:
            return  # whether it is known is asked again with the next input
        if not self._known.get(deployment):
            raise UnknownDeploymentError(
                f"deployment {deployment!r} does not exist on this broker; "
                "`dsi-mqtt status` lists those that do"
            )

    # --- sending ------------------------------------------------------------------------------

    def _act(self, effects: ClientEffects) -> None:
        for effect in effects:
            call = self._calls.get(effect.id)
            if call is None:
                continue
            if isinstance(effect, SendInput):
                task = asyncio.create_task(self._send(call.message), name="send input")
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
            elif not call.answer.done():
                call.answer.set_exception(
                    DeadlineError("no answer in time; is an orchestrator and a worker running?")
                )

    async def _send(self, message: Message) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            await connection.publish(message)
        except ConnectionLostError:
            return  # sent again on the next connection
        except TooLargeError:
            limit = connection.limits.max_packet_size
            sentence = (
                f"the input has {len(message.payload)} bytes, the broker takes {limit} a packet"
            )
            self._fail(message, InvalidInputError(f"{sentence}; send less"))
        except TransportError as error:
            self._fail(message, error)

    def _fail(self, message: Message, error: DsiError) -> None:
        call = self._calls.get(message.correlation_data or b"")
        if call is not None and not call.answer.done():
            call.answer.set_exception(error)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._act(self._pending.tick(time.monotonic()))


def _body(inputs: Any, content_type: str | None) -> tuple[bytes, str]:  # noqa: ANN401
    """Raises InvalidInputError for what is no JSON value."""
    if isinstance(inputs, (bytes, bytearray, memoryview)):
        return bytes(inputs), content_type or OCTETS
    if isinstance(inputs, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, inputs, allow_pickle=False)
        return buffer.getvalue(), NPY
    try:
        return json.dumps({"input": inputs}, allow_nan=False).encode(), JSON
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"inputs are no JSON value: {error}") from None
