"""An MQTT 5 broker inside the process, for tests and simulation.

It behaves as Mosquitto 2.0 was seen to, where the two can differ: it acknowledges what it drops,
delivers once per matching subscription, sends a will on take-over only when the session is not
continued, and publishes every will when it is stopped but none when it is killed. It reads no
clock of its own, starts no task and uses no thread: everything happens inside the caller's call,
in an order that depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from dsi_mqtt.errors import BrokerRefusedError, BrokerUnreachableError
from dsi_mqtt.transport.base import BrokerLimits, ConnectOptions, Message
from dsi_mqtt.transport.memory_faults import Fault, FaultKind, Passage
from dsi_mqtt.transport.memory_session import ClientEnd, ClientLink, Parcel, Session
from dsi_mqtt.transport.mqtt_packets import packet_size
from dsi_mqtt.transport.topics import matches

QUEUE_MAX: Final = 1000  # Mosquitto's max_queued_messages


@dataclass(frozen=True, slots=True)
class Retained:
    message: Message
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Saved:
    """What the database of a broker holds."""

    retained: dict[str, Retained]
    sessions: dict[str, Session]


class MemoryBroker:
    """One broker, reached as `mem://name` through the transports that were given it."""

    def __init__(
        self,
        name: str = "broker",
        *,
        limits: BrokerLimits | None = None,
        queue_max: int = QUEUE_MAX,
        users: dict[str, str] | None = None,
        autosave: bool = False,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Builds a broker that runs.

        limits: what it grants; `receive_max` is also the window it sends by.
        queue_max: messages that wait for one client; more are dropped in silence.
        users: passwords by user name; None admits everybody.
        autosave: whether state survives `kill`.
        clock: seconds, for the expiry of sessions and messages.
        """
        self.name = name
        self.limits = limits or BrokerLimits()
        self._queue_max = queue_max
        self._users = users
        self._autosave = autosave
        self._clock = clock
        self._running = True
        self._retained: dict[str, Retained] = {}
        self._sessions: dict[str, Session] = {}
        self._saved = Saved({}, {})
        self._faults: list[Fault] = []
        self._anonymous = count(1)

    # -- what clients do -------------------------------------------------------------------------

    def connect(self, options: ConnectOptions, end: ClientEnd) -> tuple[ClientLink, bool]:
        """The link, silent until `attach`, and whether a session was present.

        Raises BrokerUnreachableError or BrokerRefusedError.
        """
        self._admit(options)
        self._forget_expired()
        client_id = options.client_id or f"anonymous-{next(self._anonymous)}"
        old = self._sessions.get(client_id)
        if old is not None:
            self._take_over(old, clean_start=options.clean_start)
        present = client_id in self._sessions
        session = self._sessions.setdefault(client_id, Session(client_id, self._queue_max))
        session.expiry_s = options.session_expiry_s
        window = min(options.hold_count, self.limits.receive_max)
        return ClientLink(client_id, end, window=window, will=options.will), present

    def attach(self, link: ClientLink) -> None:
        """Hands the session on to `link`: what it holds is sent."""
        self._sessions[link.client_id].attach(link, self._clock())

    def publish(self, link: ClientLink, message: Message) -> bool:
        """Whether anybody has subscribed to the topic; nothing else is promised."""
        limit = self.limits.max_packet_size
        if limit is not None and packet_size(message) > limit:
            self._lose(link, "a packet was too large")
            return False
        return self._route(link.client_id, message)

    def subscribe(self, link: ClientLink, topic_filter: str, qos: int) -> bool:
        session = self._sessions[link.client_id]
        session.subscriptions[topic_filter] = qos
        now = self._clock()
        for topic, retained in list(self._retained.items()):
            if matches(topic_filter, topic) and not _past(retained.deadline, now):
                self._deliver(session, retained.message, qos, retained.deadline)
        return True

    def unsubscribe(self, link: ClientLink, topic_filter: str) -> bool:
        """Whether there was such a subscription."""
        return self._sessions[link.client_id].subscriptions.pop(topic_filter, None) is not None

    def acknowledge(self, link: ClientLink, packet_id: int) -> None:
        self._sessions[link.client_id].acknowledge(packet_id, self._clock())

    def disconnect(self, link: ClientLink) -> None:
        """A clean end: no will."""
        link.will = None
        self._lose(link, "it was closed by the client")

    def hang_up(self, link: ClientLink) -> None:
        """The client's socket closed without a word."""
        self._lose(link, "it was closed by the client")

    # -- what happens to brokers -----------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._running

    def start(self) -> None:
        self._running = True

    def stop(self) -> None:
        """A clean end, as by SIGTERM: every will is published, everything is saved."""
        for link in self._links():
            self._publish_will(link)
        for link in self._links():
            link.will = None
            self._lose(link, "the broker closed it")
        self.save()
        self._running = False

    def kill(self) -> None:
        """The end by SIGKILL: no will, and the state of the last save, unless `autosave`."""
        if self._autosave:
            self.save()
        for link in self._links():
            link.close("the broker closed it")
        now = self._clock()
        self._retained = dict(self._saved.retained)
        self._sessions = {key: saved.copy(now) for key, saved in self._saved.sessions.items()}
        self._running = False

    def save(self) -> None:
        """Writes the database, as Mosquitto does every 30 minutes or at every change."""
        now = self._clock()
        lasting = {key: s.copy(now) for key, s in self._sessions.items() if s.expiry_s}
        self._saved = Saved(dict(self._retained), lasting)

    # -- what happens to links -------------------------------------------------------------------

    def cut(self, client_id: str) -> None:
        """Breaks a client's connection; both ends notice, and the will is sent."""
        link = self._link(client_id)
        link.frozen = False
        self._lose(link, "the broker closed it")

    def freeze(self, client_id: str) -> ClientLink:
        """Half-open: nothing passes, nobody notices; `thaw` it, or `time_out`."""
        link = self._link(client_id)
        link.frozen = True
        return link

    def time_out(self, client_id: str) -> None:
        """The broker gives a silent client up and sends its will; a frozen client is not told."""
        self._lose(self._link(client_id), "the broker closed it")

    def connected(self, client_id: str) -> bool:
        session = self._sessions.get(client_id)
        return session is not None and session.link is not None

    # -- what happens to messages ----------------------------------------------------------------

    def drop(self, predicate: Callable[[Passage], bool], times: int | None = None) -> Fault:
        return self._fault("drop", predicate, times)

    def duplicate(self, predicate: Callable[[Passage], bool], times: int | None = None) -> Fault:
        return self._fault("duplicate", predicate, times)

    def delay(self, predicate: Callable[[Passage], bool], times: int | None = None) -> Fault:
        return self._fault("delay", predicate, times)

    def _fault(
        self, kind: FaultKind, predicate: Callable[[Passage], bool], times: int | None
    ) -> Fault:
        fault = Fault(kind, predicate, times)
        self._faults.append(fault)
        return fault

    # -- inside ----------------------------------------------------------------------------------

    def _admit(self, options: ConnectOptions) -> None:
        if not self._running:
            raise BrokerUnreachableError(
                f"no MQTT broker answers at mem://{self.name} (it is not running); start it"
            )
        if self._users is None:
            return
        if options.username is None or self._users.get(options.username) != options.password:
            raise BrokerRefusedError(
                f"broker mem://{self.name} refuses the connection: not authorized"
            )

    def _take_over(self, old: Session, *, clean_start: bool) -> None:
        """Sends the will of the old connection, unless its session goes on, as Mosquitto does."""
        ends = clean_start or not old.expiry_s
        if old.link is not None:
            if not ends:
                old.link.will = None
            self._lose(old.link, "the broker closed it")
        if ends:
            self._sessions.pop(old.client_id, None)

    def _route(self, sender: str, message: Message) -> bool:
        now = self._clock()
        self._forget_expired()
        deadline = None if message.expiry_s is None else now + message.expiry_s
        if message.retain:
            self._retained.pop(message.topic, None)
            if message.payload:
                self._retained[message.topic] = Retained(message, deadline)
        matched = False
        for session in list(self._sessions.values()):
            for topic_filter, qos in list(session.subscriptions.items()):
                if matches(topic_filter, message.topic):
                    matched = True
                    self._pass(Passage(sender, session.client_id, message), qos, deadline)
        return matched

    def _pass(self, passage: Passage, qos: int, deadline: float | None) -> None:
        def deliver() -> None:
            session = self._sessions.get(passage.receiver)
            if session is not None:
                self._deliver(session, passage.message, qos, deadline)

        for fault in self._faults:
            if fault.applies(passage):
                fault.treat(deliver)
                return
        deliver()

    def _deliver(
        self, session: Session, message: Message, qos: int, deadline: float | None
    ) -> None:
        granted = replace(message, qos=min(qos, message.qos))
        session.accept(Parcel(granted, deadline), self._clock())

    def _lose(self, link: ClientLink, reason: str) -> None:
        """Ends the broker's side; the will goes out when the session has no connection any more."""
        link.close(reason)
        session = self._sessions.get(link.client_id)
        if session is not None and session.link is link:
            session.detach(self._clock())
            self._forget_expired()
            self._publish_will(link)

    def _publish_will(self, link: ClientLink) -> None:
        will = link.will
        if will is not None:
            message = Message(will.topic, will.payload, qos=will.qos, retain=will.retain)
            self._route(link.client_id, message)

    def _forget_expired(self) -> None:
        now = self._clock()
        for session in list(self._sessions.values()):
            if session.expired(now):
                del self._sessions[session.client_id]

    def _links(self) -> list[ClientLink]:
        return [s.link for s in self._sessions.values() if s.link is not None]

    def _link(self, client_id: str) -> ClientLink:
        session = self._sessions.get(client_id)
        if session is None or session.link is None:
            raise LookupError(f"{client_id!r} is not connected to mem://{self.name}")
        return session.link


def _past(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline <= now
