"""The control connection: state over MQTT 5, on aiomqtt and the paho client inside it.

aiomqtt brings paho to the event loop. It does not pass on what our contract needs beyond that
(whether a session was present, what the broker granted, the reason in a PUBACK, the DUP flag), so
we take those from paho's own callbacks. That needs two private names of aiomqtt: `_client`, which
is paho's, and `_disconnected`, the one place that knows of every way a connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, Self, TypeVar, cast

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from dsi_mqtt.errors import BrokerRefusedError, ConnectionLostError
from dsi_mqtt.transport.address import BrokerAddress
from dsi_mqtt.transport.base import BrokerLimits, ConnectOptions, Message
from dsi_mqtt.transport.inbox import Inbox
from dsi_mqtt.transport.mqtt_packets import IN_FLIGHT_MAX, packet_size
from dsi_mqtt.transport.paho_packets import (
    connect_properties,
    granted_limits,
    publish_properties,
    received_message,
)
from dsi_mqtt.transport.refusals import (
    check_granted,
    check_message,
    check_reason,
    check_size,
    unreachable,
)
from dsi_mqtt.transport.topics import check_filter

CLOSE_TIMEOUT_S: Final = 2.0
_NO_MATCHING_SUBSCRIBERS: Final = 16
_UNLIMITED: Final = 0

T = TypeVar("T")


class MqttControlConnection:
    """One connection, from CONNACK to its end. Made by `open`."""

    def __init__(self, address: BrokerAddress, options: ConnectOptions) -> None:
        self._address = address
        self._options = options
        self._inbox = Inbox()
        self._limits = BrokerLimits()
        self._session_present = False
        self._connack: ReasonCode | None = None
        self._end: str | None = None
        self._in_flight = asyncio.Semaphore(0)
        # QoS and who waits, by the packet id that is to be published; None is the end.
        self._answers: dict[int, tuple[int, asyncio.Future[ReasonCode | None]]] = {}
        self._client = _client(address, options)
        self._paho: paho.Client = self._client._client  # noqa: SLF001 - see the module's docstring
        self._paho.connect_timeout = options.connect_timeout_s
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listen()

    @classmethod
    async def open(cls, address: BrokerAddress, options: ConnectOptions) -> Self:
        """Raises BrokerUnreachableError or BrokerRefusedError."""
        connection = cls(address, options)
        await connection._enter()
        return connection

    @property
    def session_present(self) -> bool:
        return self._session_present

    @property
    def limits(self) -> BrokerLimits:
        return self._limits

    async def subscribe(self, topic_filter: str, *, qos: int = 0) -> None:
        check_filter(topic_filter)
        self._check_live()
        how = SubscribeOptions(qos=qos, retainAsPublished=True)
        granted = await self._unless_ended(
            self._client.subscribe(topic_filter, options=how, timeout=math.inf)
        )
        for code in granted:
            self._check_reason(code, f"to subscribe to {topic_filter!r}")
            check_granted(_value(code), qos, str(self._address), topic_filter)

    async def unsubscribe(self, topic_filter: str) -> None:
        check_filter(topic_filter)
        self._check_live()
        await self._unless_ended(self._client.unsubscribe(topic_filter, timeout=math.inf))

    async def publish(self, message: Message) -> bool:
        self._check_live()
        check_message(message, self._limits, str(self._address))
        check_size(message, packet_size(message), self._limits, str(self._address))
        if not message.qos:
            await self._published(message)
            return True
        await self._in_flight.acquire()
        return await self._published(message) != _NO_MATCHING_SUBSCRIBERS

    def messages(self) -> AsyncIterator[Message]:
        return self._inbox

    async def close(self) -> None:
        self._finish("it was closed here")
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._client.__aexit__(None, None, None)
        self._drop_socket()

    def abort(self) -> None:
        self._finish("it was aborted here")
        self._drop_socket()

    # -- opening ---------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Puts our ears beside aiomqtt's on paho's callbacks."""
        on_connect = cast("Callable[..., None]", self._paho.on_connect)
        on_disconnect = cast("Callable[..., None]", self._paho.on_disconnect)

        def connected(*event: Any) -> None:  # noqa: ANN401 - paho's own signature, passed on
            _, _, flags, self._connack, properties = event
            self._session_present = flags.session_present
            self._limits = granted_limits(properties)
            on_connect(*event)

        def disconnected(*event: Any) -> None:  # noqa: ANN401 - the same
            on_disconnect(*event)
            self._finish(_end_reason(event[3]))

        loop = asyncio.get_running_loop()

        def wants_to_write(*_: object) -> None:
            loop.call_soon_threadsafe(self._write_when_ready)  # paho connects on a thread

        self._paho.on_connect = connected
        self._paho.on_disconnect = disconnected
        self._paho.on_message = self._received
        self._paho.on_publish = self._answered
        self._paho.on_socket_register_write = wants_to_write
        self._client._disconnected.add_done_callback(self._broken)  # noqa: SLF001 - see above

    async def _enter(self) -> None:
        # A thread of aiomqtt's connects; it cannot be stopped, so it is let finish and then undone.
        entering = asyncio.create_task(self._client.__aenter__(), name="mqtt-control-connect")
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                await self._first_of(entering)
            self._check_entered(entering)
        except BaseException as error:
            entering.add_done_callback(self._undo)
            if self._paho.socket() is not None:
                entering.cancel()  # the thread is done; only the answer is missing
            if isinstance(error, TimeoutError):
                raise unreachable(str(self._address), error) from None
            raise
        for _ in range(min(self._limits.receive_max, IN_FLIGHT_MAX)):
            self._in_flight.release()

    def _check_entered(self, entering: asyncio.Task[aiomqtt.Client]) -> None:
        self._check_reason(self._connack, "the connection")
        if self._connack is not None:
            return  # admitted, even where it has ended already
        if not entering.done():
            raise BrokerRefusedError(f"{self._end}; is it an MQTT 5 broker?")
        error = entering.exception()
        if isinstance(error, aiomqtt.MqttError):
            cause = error.__context__  # aiomqtt keeps the sentence of it, with the number
            told = cause if isinstance(cause, OSError) else OSError(str(error))
            raise unreachable(str(self._address), told)
        entering.result()

    def _undo(self, entering: asyncio.Task[aiomqtt.Client]) -> None:
        if not entering.cancelled():
            entering.exception()  # already told, or of no interest any more
        self.abort()

    def _write_when_ready(self) -> None:
        """Has the loop write what waits; in place of aiomqtt's own, which remembers the number of
        a socket that may be closed by now, and the number another's.
        """
        connection = self._paho.socket()
        if not isinstance(connection, socket.socket) or not self._paho.want_write():
            return
        try:
            asyncio.get_running_loop().add_writer(connection.fileno(), self._write)
        except (RuntimeError, OSError, ValueError) as error:
            # A process that stood still: the loop has let go of a socket that paho still names.
            self._finish(str(error))
            self._drop_socket()

    def _write(self) -> None:
        try:
            self._paho.loop_write()
        except Exception as error:  # noqa: BLE001 - whatever it is, this connection is broken
            self._finish(str(error))
            self._drop_socket()

    # -- what paho calls -------------------------------------------------------------------------

    def _received(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self._inbox.put(received_message(message))

    def _answered(
        self,
        _client: paho.Client,
        _data: object,
        packet_id: int,
        reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        qos, answer = self._answers.pop(packet_id, (0, None))
        self._give_back(qos)
        if answer is not None and not answer.done():  # whoever waited may have been cancelled
            answer.set_result(reason)

    def _broken(self, disconnected: asyncio.Future[None]) -> None:
        error = None if disconnected.cancelled() else disconnected.exception()
        self._finish("the broker closed it" if error is None else str(error))
        self._drop_socket()

    # -- inside ----------------------------------------------------------------------------------

    async def _published(self, message: Message) -> int:
        """Hands a message to paho; returns its reason code when it has been published.

        At QoS 1 a place in flight was taken before, and is given back when the answer comes.
        """
        try:
            info = self._hand_over(message)
        except BaseException:
            self._give_back(message.qos)
            raise
        if info.is_published():
            return 0
        answer: asyncio.Future[ReasonCode | None] = asyncio.get_running_loop().create_future()
        self._answers[info.mid] = message.qos, answer
        reason = await answer
        if reason is None:
            raise ConnectionLostError(str(self._end))
        self._check_reason(reason, f"a message to {message.topic}")
        return _value(reason)

    def _hand_over(self, message: Message) -> paho.MQTTMessageInfo:
        self._check_live()
        info = self._paho.publish(
            message.topic,
            bytes(message.payload),
            message.qos,
            message.retain,
            publish_properties(message),
        )
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise ConnectionLostError(
                f"the connection to broker {self._address} ended: {paho.error_string(info.rc)}"
            )
        return info

    async def _unless_ended(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a call to aiomqtt, which would go on waiting after the connection's end."""
        asked = asyncio.create_task(call, name="mqtt-control-call")
        try:
            await self._first_of(asked)
            if asked.done():
                return asked.result()
        except aiomqtt.MqttError as error:
            raise ConnectionLostError(
                f"the connection to broker {self._address} ended: {error}"
            ) from None
        finally:
            asked.cancel()
        raise ConnectionLostError(str(self._end))

    async def _first_of(self, task: asyncio.Task[Any]) -> None:
        """Returns when `task` is done or the connection has ended."""
        await asyncio.wait((task, self._ended), return_when=asyncio.FIRST_COMPLETED)

    def _give_back(self, qos: int) -> None:
        if qos:
            self._in_flight.release()

    def _check_reason(self, reason: ReasonCode | int | None, what: str) -> None:
        check_reason(_value(reason), str(reason).lower(), str(self._address), what)

    def _check_live(self) -> None:
        if self._end is not None:
            raise ConnectionLostError(self._end)

    def _finish(self, reason: str) -> None:
        if self._end is not None:
            return
        self._end = f"the connection to broker {self._address} ended: {reason}"
        self._inbox.end(self._end)
        self._ended.set_result(None)
        for _, answer in self._answers.values():
            if not answer.done():
                answer.set_result(None)
        self._in_flight.release()  # the first who waits finds the end and wakes the next

    def _drop_socket(self) -> None:
        """Lets paho find its socket closed, so that it lets go of it."""
        connection = self._paho.socket()
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            self._paho.loop_read()


def _client(address: BrokerAddress, options: ConnectOptions) -> aiomqtt.Client:
    will = options.will
    return aiomqtt.Client(
        address.host,
        address.port,
        username=options.username,
        password=options.password,
        identifier=options.client_id or None,
        protocol=aiomqtt.ProtocolVersion.V5,
        will=None
        if will is None
        else aiomqtt.Will(will.topic, will.payload, will.qos, will.retain),
        clean_start=options.clean_start,
        keepalive=options.keep_alive_s,
        timeout=options.connect_timeout_s,
        properties=connect_properties(options.session_expiry_s),
        # Nothing waits or is dropped inside paho: `_in_flight` holds to the broker's own maximum.
        max_inflight_messages=_UNLIMITED,
        max_queued_outgoing_messages=_UNLIMITED,
    )


def _value(reason: ReasonCode | int | None) -> int:
    return int(reason.value) if isinstance(reason, ReasonCode) else reason or 0


def _end_reason(reason: ReasonCode) -> str:
    """Why paho says that a connection ended; what it calls unspecified is a bare close."""
    text = str(reason).lower()
    return "the broker closed it" if "unspecified" in text else f"the broker says {text}"
