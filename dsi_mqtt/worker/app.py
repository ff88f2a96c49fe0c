"""The worker process: connections, engines and time around the node's state machine.

Everything enters `_dispatch` as an event and leaves as effects; what an effect needs that takes
time runs in a task of its own and comes back as another event.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.link import LinkMeter
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.node import FREE, Telemetry, Upkeep
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.core.worker import Worker
from dsi_mqtt.engine.base import EngineFactory
from dsi_mqtt.errors import (
    ConnectionLostError,
    TransportError,
    WireError,
    one_sentence,
)
from dsi_mqtt.transport.address import parse_broker_url
from dsi_mqtt.transport.base import (
    ConnectOptions,
    ControlConnection,
    DataConnection,
    Message,
    Transport,
    Will,
)
from dsi_mqtt.transport.lasting import Backoff, keep_connected, log_wait
from dsi_mqtt.transport.together import first_of
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.alone import Alone
from dsi_mqtt.worker.answering import KEEP_ALIVE_S
from dsi_mqtt.worker.doorway import Doorway
from dsi_mqtt.worker.echo import EVERY_S, Echo, probe_bytes
from dsi_mqtt.worker.engines import EngineHost
from dsi_mqtt.worker.home import Home
from dsi_mqtt.worker.port import ActivationPort
from dsi_mqtt.worker.reader import NONCE, READ, ControlReader
from dsi_mqtt.worker.rhythm import phase_s, until_beat_s
from dsi_mqtt.worker.texts import TextHost
from dsi_mqtt.worker.vitals import Vitals, measure_capabilities, peak_rss_bytes

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
RECONNECT: Final = Backoff(last_s=3.0)
# Where between two telemetries a beat goes: a little behind the probes, which measure the link.
BEAT_BEHIND: Final = 0.6
DATA_HOLD_BYTES: Final = 512 * MIB


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a node is told when it starts; everything else it measures or reads from topics.

    brokers: its home brokers. weight_cap: bytes of weights it may hold; None takes a share of the
    free memory. telemetry_s: between two telemetry messages. follows_site: nobody has told it where
    tensors go, so that what is retained on the site does, whenever it says something else.
    """

    node: str
    zone: str
    brokers: BrokerUrls
    root: str
    weight_cap: int | None = None
    threads: int = 1
    spare: bool = False
    upkeep: Upkeep = FREE
    model_root: Path | None = None
    telemetry_s: float = 0.5
    follows_site: bool = False
    on_wait: Callable[[TransportError, float], None] = log_wait


class WorkerProcess:
    """One node. `run` serves until it is cancelled, then says goodbye."""

    def __init__(self, config: WorkerConfig, transport: Transport, factory: EngineFactory) -> None:
        self._config = config
        self._transport = transport
        self._topics = Topics(config.root)
        self._machine = Worker(
            config.node,
            os.urandom(4).hex(),
            zone=config.zone,
            capabilities=measure_capabilities(config.threads, config.weight_cap),
            brokers=config.brokers,
            pid=os.getpid(),
            spare=config.spare,
            upkeep=config.upkeep,
        )
        self._engines = EngineHost(factory, self._dispatch, config.model_root, config.weight_cap)
        self._texts = TextHost(self._engines.engine, self._dispatch)
        self._link = LinkMeter(probe_bytes(self._topics, config.node))
        self._phase_s = phase_s(config.node, config.telemetry_s)
        self._echo = Echo(
            config.node,
            self._topics,
            self._link,
            time.monotonic,
            phase_s=self._phase_s + min(EVERY_S, config.telemetry_s) / 2,
        )
        self._port = ActivationPort(
            config.node,
            self._topics,
            arrived=self._arrived,
            broke=self._broke,
            clock=time.monotonic,
            link=self._link,
            behind=self._echo.behind,
        )
        self._reader = ControlReader(self._topics, config.node)
        self._doorways: dict[str, Doorway] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._control: ControlConnection | None = None
        self._status_changed = asyncio.Event()
        self._vitals = Vitals()
        self._sequence = 0
        self._alone = Alone(
            config.node, self._machine.incarnation, self._topics, self._status_changed.set
        )
        self._home = Home(config.brokers, self._topics, self._dispatch, follows=config.follows_site)
        self._perform = self._performers()

    def _performers(self) -> dict[type, Callable[[Any], None]]:
        """By effect, what does it."""
        return {
            fx.OpenModel: lambda e: self._engines.open(e.deployment),
            fx.CloseModel: lambda e: self._close_model(e.deployment),
            fx.LoadUnits: lambda e: self._engines.load(e.deployment, e.units),
            fx.DropUnits: lambda e: self._engines.drop(e.deployment, e.units),
            fx.ReportStatus: lambda _: self._status_changed.set(),
            fx.GiveWay: lambda _: self._alone.give_way(),
            fx.Compute: self._engines.compute,
            fx.CloseSessions: self._engines.close_sessions,
            fx.ExportState: self._engines.export_state,
            fx.ImportState: self._engines.import_state,
            fx.ReadPrompt: self._texts.read,
            fx.WriteText: self._texts.write,
            fx.ForgetText: self._texts.forget,
            fx.PublishPartial: lambda e: self._doorway(e.deployment).publish(e),
            fx.EchoHearing: lambda e: self._doorway(e.deployment).publish(e),
            fx.Transmit: self._transmit,
            fx.OpenAnswers: lambda e: self._doorway(e.deployment).open_answers(e.door),
            fx.OpenIngress: lambda e: self._doorway(e.deployment).open(e),
            fx.CloseIngress: self._close_ingress,
            fx.EchoNonce: self._echo_nonce,
            fx.PublishReply: lambda e: self._doorway(e.deployment).publish(e),
            fx.Acknowledge: lambda e: self._doorway(e.deployment).acknowledge(e),
            fx.WriteRecord: lambda e: self._doorway(e.deployment).publish(e),
            fx.ClearRetained: lambda e: self._doorway(e.deployment).publish(e),
        }

    async def run(self) -> None:
        """Serves for ever. Raises what cannot be mended by connecting again."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_control(), name="control")
                group.create_task(self._keep_data(), name="data")
                group.create_task(self._home.follow(), name="home")
                group.create_task(self._tick(), name="tick")
                group.create_task(self._send_telemetry(), name="telemetry")
                group.create_task(self._send_beats(), name="beats")
        finally:
            self._engines.shut_down()
            self._texts.shut_down()
            for task in self._tasks:
                task.cancel()

    # --- events in, effects out ---------------------------------------------------------------

    def _dispatch(self, event: ev.Event) -> None:
        for effect in self._machine.handle(event, time.monotonic()):
            try:
                self._perform[type(effect)](effect)
            except Exception as error:  # the effects behind it belong to others
                name = type(effect).__name__
                log.error("%s failed: %s", name, one_sentence(repr(error)))  # noqa: TRY400
                log.debug("what happened", exc_info=True)

    def _arrived(self, activation: Activation) -> None:
        self._dispatch(ev.ActivationArrived(activation))

    def _broke(self, header: Header) -> None:
        self._dispatch(ev.ActivationBroke(header))

    def _transmit(self, effect: fx.Transmit) -> None:
        if effect.receiver == self._config.node:
            # A later turn of the loop, so that a chain within one node cannot nest calls.
            asyncio.get_running_loop().call_soon(self._arrived, effect.activation)
        else:
            self._port.send(effect.receiver, effect.activation)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._port.tick()
            self._dispatch(ev.Ticked())

    def _close_model(self, deployment: str) -> None:
        self._engines.close(deployment)
        self._texts.close(deployment)

    # --- doors --------------------------------------------------------------------------------

    def _doorway(self, deployment: str) -> Doorway:
        doorway = self._doorways.get(deployment)
        if doorway is None:
            doorway = self._doorways[deployment] = Doorway(
                deployment, self._transport, self._topics, self._dispatch
            )
        return doorway

    def _close_ingress(self, effect: fx.CloseIngress) -> None:
        doorway = self._doorways.get(effect.deployment)
        if doorway is None:
            return
        doorway.close()  # at once: the door may be opened again in this very turn
        if effect.forget:
            self._start(doorway.forget(), f"forget session {effect.deployment}")

    def _echo_nonce(self, effect: fx.EchoNonce) -> None:
        """Asks the control broker whether it hears us; without it nothing comes back."""
        control = self._control
        if control is None:
            return
        name = self._echo.topic

        async def run() -> None:
            try:
                await control.publish(Message(name, NONCE + effect.deployment.encode()))
            except ConnectionLostError:
                log.debug("control is away; the nonce is sent again later")

        self._start(run(), f"nonce {effect.deployment}")

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- control ------------------------------------------------------------------------------

    async def _keep_control(self) -> None:
        will = Will(
            self._topics.status.name(node=self._config.node),
            self._topics.status.payload.encode(self._machine.will()),
        )
        options = ConnectOptions(keep_alive_s=KEEP_ALIVE_S, will=will)

        async def connect() -> ControlConnection:
            return await self._transport.control(self._config.brokers.control, options)

        await keep_connected(
            connect, self._serve_control, backoff=RECONNECT, on_wait=self._config.on_wait
        )

    async def _serve_control(self, connection: ControlConnection) -> None:
        await self._alone.check(connection)
        self._link.was_dead()  # and that to the data broker is too, if it is silent: soon it ends
        self._control = connection
        try:
            for topic_filter in (*self._reader.filters(), *self._home.filters()):
                await connection.subscribe(topic_filter, qos=1)
            await connection.publish(Message(self._echo.topic, READ, qos=1))
            self._dispatch(ev.ControlReconnected())
            log.info(
                "node %s in zone %s is at %s, tensors at %s",
                self._config.node,
                self._config.zone,
                *(parse_broker_url(url) for url in astuple(self._home.brokers)),
            )
            await first_of(
                self._publish_status(connection),
                self._read_control(connection),
                self._alone.watch(connection),
            )
        except asyncio.CancelledError:
            await self._say_goodbye(connection)
            raise
        finally:
            self._control = None

    async def _read_control(self, connection: ControlConnection) -> None:
        async for message in connection.messages():
            self._control_message(message)

    async def _publish_status(self, connection: ControlConnection) -> None:
        """Writes the newest status whenever it has changed; several changes make one message."""
        topic = self._topics.status.name(node=self._config.node)
        while True:
            await self._status_changed.wait()
            await self._alone.may_speak()
            self._status_changed.clear()
            payload = self._topics.status.payload.encode(self._machine.status())
            await connection.publish(Message(topic, payload, qos=1, retain=True))

    async def _say_goodbye(self, connection: ControlConnection) -> None:
        topic = self._topics.status.name(node=self._config.node)
        payload = self._topics.status.payload.encode(self._machine.will())
        try:
            await connection.publish(Message(topic, payload, qos=1, retain=True))
            await connection.close()
        except ConnectionLostError:
            log.debug("the broker was gone before the farewell")

    def _control_message(self, message: Message) -> None:
        """What a message says; no message ends the node."""
        try:
            if self._alone.heard(message) or self._home.heard(message):
                return
            event = self._reader.event(message)
            if event is not None:
                self._dispatch(event)
        except WireError as error:
            log.warning("%s is ignored: %s", message.topic, error)
        except Exception as error:  # those that come behind it are read
            log.error("%s is ignored: %s", message.topic, one_sentence(repr(error)))  # noqa: TRY400
            log.debug("what happened", exc_info=True)

    # --- data ---------------------------------------------------------------------------------

    async def _keep_data(self) -> None:
        options = ConnectOptions(keep_alive_s=KEEP_ALIVE_S, hold_bytes=DATA_HOLD_BYTES)
        url = ""

        async def connect() -> DataConnection:
            nonlocal url
            url = self._home.brokers.data
            return await self._transport.data(url, options)

        async def serve(connection: DataConnection) -> None:
            await first_of(self._serve_data(connection), self._home.left(url))

        while True:  # each turn at one broker
            await keep_connected(connect, serve, backoff=RECONNECT, on_wait=self._config.on_wait)

    async def _serve_data(self, connection: DataConnection) -> None:
        await connection.subscribe(self._port.topic_filter)
        await connection.subscribe(self._echo.topic)
        self._port.attach(connection)
        self._dispatch(ev.DataReconnected())
        try:
            await first_of(
                self._port.send_waiting(connection),
                self._echo.send(connection),
                self._read_data(connection),
            )
        finally:
            self._port.detach()

    async def _read_data(self, connection: DataConnection) -> None:
        async for message in connection.messages():
            if message.topic == self._echo.topic:
                self._echo.returned(message)
            else:
                self._port.receive(message)

    # --- telemetry ----------------------------------------------------------------------------

    async def _send_telemetry(self) -> None:
        topic = self._topics.telemetry.name(node=self._config.node)
        every_s, phase = self._config.telemetry_s, self._phase_s
        while True:
            await asyncio.sleep(until_beat_s(time.monotonic(), every_s, phase))
            control = self._control
            if control is None:
                continue
            payload = self._topics.telemetry.payload.encode(self._telemetry())
            try:
                await control.publish(Message(topic, payload))
            except ConnectionLostError:
                log.debug("control is away; telemetry waits")

    async def _send_beats(self) -> None:
        """Between two telemetries, while anything depends on this node: it is soon missed."""
        beat = Message(
            self._topics.beat.name(node=self._config.node), self._machine.incarnation.encode()
        )
        every_s = self._config.telemetry_s
        while True:
            phase = (self._phase_s + BEAT_BEHIND * every_s) % every_s
            await asyncio.sleep(until_beat_s(time.monotonic(), every_s, phase))
            control = self._control
            if control is None or not self._machine.is_depended_on:
                continue
            try:
                await control.publish(beat)
            except ConnectionLostError:
                log.debug("control is away; beats wait")

    def _telemetry(self) -> Telemetry:
        self._sequence += 1
        now = time.monotonic()
        self._link.watch(now)
        return Telemetry(
            node=self._config.node,
            incarnation=self._machine.incarnation,
            sequence=self._sequence,
            cpu=self._vitals.cpu(),
            rss_bytes=self._vitals.rss_bytes(),
            peak_rss_bytes=peak_rss_bytes(),
            memory_free_bytes=self._vitals.memory_free_bytes(),
            echo_age_s=self._link.age_s(now),
            link=self._link.sample(now),
            segments=self._machine.segment_loads(),
            doors=self._machine.door_loads(),
            sessions=self._machine.sessions(),
            unreadable=self._port.unreadable,
        )
