"""The data connection: inputs and activations over MQTT 5, acknowledged by hand.

What it holds is bounded here and not by the broker's receive maximum, which Mosquitto 2.0
exceeds: at the bound the socket is read into the receive buffer and no further. Whatever comes
behind on the same socket waits as well, acknowledgements of our own publishes among it; so a
reader must be able to acknowledge without first waiting for a QoS 1 publish on the same connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Self, TypeVar

import mqtt5

from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.errors import BrokerRefusedError, ConnectionLostError
from dsi_mqtt.transport.address import BrokerAddress
from dsi_mqtt.transport.base import BrokerLimits, ConnectOptions, Message
from dsi_mqtt.transport.inbox import Inbox
from dsi_mqtt.transport.mqtt_packets import (
    IN_FLIGHT_MAX,
    QOS,
    ReasonCode,
    connect_packet,
    granted_limits,
    publish_header,
    publish_packet,
    reason_text,
    received_message,
)
from dsi_mqtt.transport.mqtt_stream import PacketStream
from dsi_mqtt.transport.refusals import (
    check_granted,
    check_message,
    check_reason,
    check_size,
    check_without_answer,
    unreachable,
)
from dsi_mqtt.transport.topics import check_filter

PACKET_ID_MAX: Final = 65_535
CLOSE_TIMEOUT_S: Final = 2.0
# Up to this size a copy of the payload is cheaper than a second write. Above it two writes are
# also faster than one that gathers both: the broker wakes for the header while we still write.
JOIN_BYTES: Final = 8 * KIB

Answer = mqtt5.PubAckPacket | mqtt5.SubAckPacket | mqtt5.UnsubAckPacket
AnswerT = TypeVar("AnswerT", mqtt5.PubAckPacket, mqtt5.SubAckPacket, mqtt5.UnsubAckPacket)


class MqttDataConnection:
    """One connection, from CONNACK to its end. Made by `open`."""

    def __init__(self, address: BrokerAddress, options: ConnectOptions) -> None:
        self._broker = str(address)
        self._inbox = Inbox(count_max=options.hold_count, bytes_max=options.hold_bytes)
        self._stream = PacketStream(self)
        self._inbox.on_room = self._stream.resume
        self._limits = BrokerLimits()
        self._session_present = False
        self._end: str | None = None
        self._connack: asyncio.Future[mqtt5.ConnAckPacket | None]
        self._connack = asyncio.get_running_loop().create_future()
        self._in_flight = asyncio.Semaphore(0)
        # Who waits for which packet id, and for what; None is the connection's end.
        self._answers: dict[int, tuple[type[Answer], asyncio.Future[Answer | None]]] = {}
        self._packet_id = 0

    @classmethod
    async def open(cls, address: BrokerAddress, options: ConnectOptions) -> Self:
        """Raises BrokerUnreachableError or BrokerRefusedError."""
        connection = cls(address, options)
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection._stream, address.host, address.port
                )
                connection._stream.write(connect_packet(options))
                connection._admit(await connection._connack, options)
        except BaseException as error:
            connection.abort()
            if isinstance(error, OSError):  # TimeoutError among them
                raise unreachable(str(address), error) from None
            raise
        return connection

    @property
    def session_present(self) -> bool:
        return self._session_present

    @property
    def limits(self) -> BrokerLimits:
        return self._limits

    async def subscribe(self, topic_filter: str, *, qos: int = 0) -> None:
        wanted = mqtt5.TopicFilter(check_filter(topic_filter), max_qos=QOS[qos])
        packet_id = self._free_packet_id()
        packet = mqtt5.SubscribePacket(packet_id, [wanted]).write()
        answer = await self._exchange(packet_id, packet, mqtt5.SubAckPacket)
        for code in answer.reason_codes:
            self._check_reason(code, f"to subscribe to {topic_filter!r}")
            check_granted(int(code), qos, self._broker, topic_filter)

    async def unsubscribe(self, topic_filter: str) -> None:
        packet_id = self._free_packet_id()
        packet = mqtt5.UnsubscribePacket(packet_id, [check_filter(topic_filter)]).write()
        answer = await self._exchange(packet_id, packet, mqtt5.UnsubAckPacket)
        for code in answer.reason_codes:
            self._check_reason(code, f"to unsubscribe from {topic_filter!r}")

    async def publish(self, message: Message) -> bool:
        if message.qos:
            return await self._publish_acknowledged(message)
        self._write(message, None)
        if self._stream.congested:
            await self.drained()
        return True

    def publish_soon(self, message: Message) -> None:
        check_without_answer(message)
        self._write(message, None)

    @property
    def congested(self) -> bool:
        return self._stream.congested

    @property
    def arriving(self) -> tuple[int, float]:
        return self._stream.arriving

    async def drained(self) -> None:
        await self._stream.drained()
        self._check_live()

    def messages(self) -> AsyncIterator[Message]:
        return self._inbox

    def acknowledge(self, message: Message) -> None:
        self._check_live()
        packet_id = self._inbox.release(message.receipt)
        if packet_id is not None:
            self._stream.write(mqtt5.PubAckPacket(packet_id).write())

    async def close(self) -> None:
        await self._stream.close(mqtt5.DisconnectPacket().write(), CLOSE_TIMEOUT_S)

    def abort(self) -> None:
        self._stream.end("it was aborted here")

    # -- what the stream calls -------------------------------------------------------------------

    def packet_received(self, packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.PublishPacket):
            self._receive(packet)
        elif isinstance(packet, mqtt5.PubAckPacket | mqtt5.SubAckPacket | mqtt5.UnsubAckPacket):
            self._settle(packet)
        elif isinstance(packet, mqtt5.DisconnectPacket):
            self._stream.end(f"the broker says {reason_text(packet.reason_code)}")
        elif isinstance(packet, mqtt5.ConnAckPacket) and not self._connack.done():
            self._connack.set_result(packet)
        elif not isinstance(packet, mqtt5.PingRespPacket):
            self._stream.end(f"the broker sent an unexpected {type(packet).__name__}")

    def stream_ended(self, reason: str) -> None:
        self._end = f"the connection to broker {self._broker} ended: {reason}"
        self._inbox.end(self._end)
        if not self._connack.done():
            self._connack.set_result(None)
        for _, answer in self._answers.values():
            if not answer.done():
                answer.set_result(None)
        self._in_flight.release()  # the first who waits finds the end and wakes the next

    # -- inside ----------------------------------------------------------------------------------

    def _admit(self, connack: mqtt5.ConnAckPacket | None, options: ConnectOptions) -> None:
        if connack is None:
            raise BrokerRefusedError(f"{self._end}; is it an MQTT 5 broker?")
        self._check_reason(connack.reason_code, "the connection")
        self._session_present = connack.session_present
        self._limits = granted_limits(connack)
        for _ in range(min(self._limits.receive_max, IN_FLIGHT_MAX)):
            self._in_flight.release()
        server_keep_alive = self._limits.server_keep_alive_s
        seconds = options.keep_alive_s if server_keep_alive is None else server_keep_alive
        if seconds:
            self._stream.keep_alive(seconds)

    def _receive(self, packet: mqtt5.PublishPacket) -> None:
        receipt = None
        if packet.packet_id is not None:
            if int(packet.qos) > 1:
                self._stream.end("the broker sent a message at QoS 2, which nobody subscribed to")
                return
            receipt = self._inbox.hold(packet.packet_id)
        self._inbox.put(received_message(packet, receipt, self._stream.pieces))
        if self._inbox.full:
            self._stream.pause()

    async def _publish_acknowledged(self, message: Message) -> bool:
        await self._in_flight.acquire()
        try:
            self._check_live()
            packet_id = self._free_packet_id()
            self._write(message, packet_id)
        except BaseException:
            self._in_flight.release()
            raise
        answer = await self._answer(packet_id, mqtt5.PubAckPacket)
        self._check_reason(answer.reason_code, f"a message to {message.topic}")
        return answer.reason_code != mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS

    def _write(self, message: Message, packet_id: int | None) -> None:
        """A small packet in one piece; a large payload behind its header, without a copy."""
        self._check_live()
        check_message(message, self._limits, self._broker)
        payload = message.payload
        if len(payload) <= JOIN_BYTES:
            packet = publish_packet(message, packet_id)
            check_size(message, len(packet), self._limits, self._broker)
            self._stream.write(packet)
        else:
            header = publish_header(message, packet_id)
            check_size(message, len(header) + len(payload), self._limits, self._broker)
            self._stream.write(header)
            self._stream.write(payload)

    async def _exchange(self, packet_id: int, packet: bytes, kind: type[AnswerT]) -> AnswerT:
        self._check_live()
        self._stream.write(packet)
        return await self._answer(packet_id, kind)

    async def _answer(self, packet_id: int, kind: type[AnswerT]) -> AnswerT:
        """Waits for the answer to `packet_id`, which stays taken until it comes."""
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._answers[packet_id] = kind, answer
        packet = await answer
        if not isinstance(packet, kind):
            raise ConnectionLostError(str(self._end))
        return packet

    def _settle(self, packet: Answer) -> None:
        kind, answer = self._answers.get(packet.packet_id, (None, None))
        if answer is None or kind is not type(packet):
            self._stream.end(f"the broker sent an unexpected {type(packet).__name__}")
            return
        del self._answers[packet.packet_id]
        if kind is mqtt5.PubAckPacket:
            self._in_flight.release()
        if not answer.done():  # whoever waited may have been cancelled
            answer.set_result(packet)

    def _free_packet_id(self) -> int:
        while True:
            self._packet_id = self._packet_id % PACKET_ID_MAX + 1
            if self._packet_id not in self._answers:
                return self._packet_id

    def _check_reason(self, code: ReasonCode, what: str) -> None:
        check_reason(int(code), reason_text(code), self._broker, what)

    def _check_live(self) -> None:
        if self._end is not None:
            raise ConnectionLostError(self._end)
