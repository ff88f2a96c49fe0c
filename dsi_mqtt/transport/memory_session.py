"""What the in-process broker keeps for one client, and the wire between the two."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from dsi_mqtt.transport.base import Message, Will

Action = Callable[[], object]


class ClientEnd(Protocol):
    """The client's end of a link."""

    @property
    def ready(self) -> bool:
        """Whether it reads its socket now."""

    def deliver(self, message: Message, packet_id: int | None) -> None: ...

    def ended(self, reason: str) -> None: ...


class ClientLink:
    """The wire between one client and the broker: order kept, faults on demand.

    Frozen, it carries nothing and tells neither end: what is sent waits for the thaw.
    """

    def __init__(self, client_id: str, end: ClientEnd, *, window: int, will: Will | None) -> None:
        """window: QoS 1 messages sent and unacknowledged at a time."""
        self.client_id = client_id
        self.window = window
        self.will = will
        self.frozen = False
        self._end = end
        self._closed: str | None = None
        self._to_broker: deque[Action] = deque()
        self._to_client: deque[Action] = deque()
        self._pumping = False

    @property
    def waiting(self) -> int:
        """How much the client has not read."""
        return len(self._to_client)

    def send_up(self, action: Action) -> None:
        self._to_broker.append(action)
        self.pump()

    def send_down(self, action: Action) -> None:
        self._to_client.append(action)
        self.pump()

    def deliver(self, message: Message, packet_id: int | None) -> None:
        self.send_down(lambda: self._end.deliver(message, packet_id))

    def pump(self) -> None:
        """Moves what can move. Called after every change that may let something through."""
        if self._pumping:
            return  # an action of the loop below asks for more: it goes on there, not deeper
        self._pumping = True
        try:
            while (action := self._next()) is not None:
                action()
        finally:
            self._pumping = False

    def _next(self) -> Action | None:
        if self.frozen:
            return None
        if self._to_broker and self._closed is None:
            return self._to_broker.popleft()
        if self._to_client and self._end.ready:
            return self._to_client.popleft()
        return None

    def close(self, reason: str) -> None:
        """The broker's end is gone; the client learns it as soon as the wire carries anything."""
        self._closed = reason
        self._to_client.clear()
        if not self.frozen:
            self._end.ended(reason)

    def thaw(self) -> None:
        self.frozen = False
        if self._closed is not None:
            self._end.ended(self._closed)
        self.pump()


@dataclass(slots=True)
class Parcel:
    """A message on its way to one session; `deadline` on the broker's clock."""

    message: Message
    deadline: float | None

    def as_sent(self, now: float) -> Message:
        """The message with the seconds it has left."""
        if self.deadline is None:
            return self.message
        return replace(self.message, expiry_s=max(0, round(self.deadline - now)))


@dataclass(slots=True)
class Session:
    """An MQTT session: it outlives its connections by `expiry_s` seconds.

    Invariants: packet ids in `in_flight` are unique and in the order sent; without a link nothing
    is in flight.
    """

    client_id: str
    queue_max: int
    expiry_s: int = 0
    subscriptions: dict[str, int] = field(default_factory=dict)
    queue: deque[Parcel] = field(default_factory=deque)
    in_flight: dict[int, Parcel] = field(default_factory=dict)
    link: ClientLink | None = None
    ended_at: float | None = None
    last_packet_id: int = 0

    def accept(self, parcel: Parcel, now: float) -> None:
        """Sends it, queues it, or drops it in silence where Mosquitto would."""
        if parcel.message.qos:
            waiting = len(self.queue)
            if waiting < self.queue_max or self._has_window():
                self.queue.append(parcel)
                self.send_queued(now)
        elif self.link is not None and self.link.waiting < self.queue_max:
            self.link.deliver(parcel.as_sent(now), None)

    def attach(self, link: ClientLink, now: float) -> None:
        self.link, self.ended_at = link, None
        self.send_queued(now)

    def detach(self, now: float) -> None:
        """What was sent and not acknowledged will be sent again first, marked as duplicate."""
        self.link, self.ended_at = None, now
        again = [
            replace(parcel, message=replace(parcel.message, duplicate=True))
            for parcel in self.in_flight.values()
        ]
        self.in_flight.clear()
        self.queue.extendleft(reversed(again))

    def acknowledge(self, packet_id: int, now: float) -> None:
        self.in_flight.pop(packet_id, None)
        self.send_queued(now)

    def send_queued(self, now: float) -> None:
        while self.queue and self.link is not None and self._has_window():
            parcel = self.queue.popleft()
            if parcel.deadline is not None and parcel.deadline <= now:
                continue
            self.last_packet_id = self.last_packet_id % 65_535 + 1
            self.in_flight[self.last_packet_id] = parcel
            self.link.deliver(parcel.as_sent(now), self.last_packet_id)

    def expired(self, now: float) -> bool:
        return self.ended_at is not None and now >= self.ended_at + self.expiry_s

    def copy(self, now: float) -> Session:
        """As a database would hold it: without its connection."""
        copied = replace(
            self,
            subscriptions=dict(self.subscriptions),
            queue=deque(self.queue),
            in_flight=dict(self.in_flight),
        )
        if self.ended_at is None:
            copied.detach(now)
        return copied

    def _has_window(self) -> bool:
        return self.link is not None and len(self.in_flight) < self.link.window
