"""The faults themselves: each is begun, holds while its block runs, and is undone behind it.

`STRIKES` has one function for each name in `trials`. It is given what it needs (`Scene`) and the
node that is to be the victim, if it has one.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

import psutil

from dsi_mqtt.chaos.disorder import Disorder
from dsi_mqtt.chaos.ground import Ground
from dsi_mqtt.chaos.journal import Journal
from dsi_mqtt.chaos.layouts import UNITS, Layout
from dsi_mqtt.chaos.leaders import Leaders
from dsi_mqtt.chaos.ledger import Ledger
from dsi_mqtt.chaos.load import Load
from dsi_mqtt.chaos.trials import KINDS
from dsi_mqtt.chaos.watcher import Watcher
from dsi_mqtt.core.node import Desired
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.transport.base import ConnectOptions, Message
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics

PATIENCE_S: Final = 25.0
TENTH: Final = 0.1
TRICKLE: Final = 0.0002
BURST: Final = 60
SKEWS_S: Final = (-86_400.0, -3600.0, -30.0, 30.0, 3600.0, 86_400.0)
DISORDER_S: Final = 2.5
MEMORY_S: Final = 2.5
# Of address space that a process may still take when memory is short.
MEMORY_LEFT: Final = 256 * KIB
# The same where it should live on, and load nothing.
MEMORY_TO_LIVE: Final = 2 * MIB
# What a file of the broker may have when its disk is full.
DISK_BYTES: Final = 4 * KIB


@dataclass(slots=True)
class Scene:
    """What is there while faults are injected.

    down: processes that are not there on purpose. absent_s: how long no orchestrator is there.
    over: says that the fault is done with, from when on answers tell that it is recovered from.
    """

    ground: Ground
    layout: Layout
    watcher: Watcher
    leaders: Leaders
    load: Load
    one_pass: Ledger
    journal: Journal
    topics: Topics
    random: Random
    down: set[str]
    absent_s: float
    over: Callable[[], None]
    detected: Callable[[], None]


Strike = Callable[[Scene, str], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def worker_kill(scene: Scene, node: str) -> AsyncIterator[None]:
    """Ended by kill -9; started again once the others have taken over."""
    async with _down(scene, node):
        yield


@asynccontextmanager
async def door_kill(scene: Scene, node: str) -> AsyncIterator[None]:
    """The same, with a queue of inputs at the door."""
    scene.load.burst(scene.one_pass, BURST)
    await asyncio.sleep(0.02)  # so that most of them are at the door, and few are answered
    async with _down(scene, node):
        yield


@asynccontextmanager
async def worker_freeze(scene: Scene, node: str) -> AsyncIterator[None]:
    """SIGSTOP, and SIGCONT once the others have taken over: it comes back with all it held."""
    pid = scene.ground.pid(node)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def link_cut(scene: Scene, node: str) -> AsyncIterator[None]:
    """Nothing passes; connections stand, and go on afterwards."""
    async with _throttled(scene, node, 0.0):
        yield


@asynccontextmanager
async def link_throttle(scene: Scene, node: str) -> AsyncIterator[None]:
    """A trickle passes."""
    async with _throttled(scene, node, TRICKLE):
        yield


@asynccontextmanager
async def link_degrade(scene: Scene, node: str) -> AsyncIterator[None]:
    """A tenth of its rate is left."""
    async with _throttled(scene, node, TENTH):
        yield


@asynccontextmanager
async def link_half_open(scene: Scene, node: str) -> AsyncIterator[None]:
    """Its connections look open, and nothing passes; the old ones never go on."""
    link = scene.ground.link(node)
    link.half_open()
    try:
        yield
    finally:
        link.mend()


@asynccontextmanager
async def two_doors(scene: Scene, node: str) -> AsyncIterator[None]:
    """The door is cut off with inputs in its hands, and believes that it is the door while another
    is named.
    """
    scene.load.burst(scene.one_pass, BURST)
    await asyncio.sleep(0.02)  # as in `door_kill`
    async with link_half_open(scene, node):
        yield


# --- brokers ----------------------------------------------------------------------------------


@asynccontextmanager
async def control_broker_restart(scene: Scene, _: str) -> AsyncIterator[None]:
    """A clean end: it saves its state, and publishes everybody's will."""
    await scene.ground.control.restart()
    scene.over()
    yield


@asynccontextmanager
async def control_broker_kill(scene: Scene, _: str) -> AsyncIterator[None]:
    await scene.ground.control.kill()
    await scene.ground.control.start()
    scene.over()
    yield


@asynccontextmanager
async def data_broker_restart(scene: Scene, _: str) -> AsyncIterator[None]:
    await scene.ground.data.restart()
    scene.over()
    yield


@asynccontextmanager
async def data_broker_kill(scene: Scene, _: str) -> AsyncIterator[None]:
    await scene.ground.data.kill()
    await scene.ground.data.start()
    scene.over()
    yield


@asynccontextmanager
async def disk_full(scene: Scene, _: str) -> AsyncIterator[None]:
    """The control broker cannot write its state, while tables change and change back.

    Its files may not grow beyond next to nothing, which fails its writes as a full disk does.
    """
    pid = scene.ground.control.pid
    if pid is None:
        raise RuntimeError("the control broker does not run")
    whole = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (DISK_BYTES, whole[1]))
    try:
        async with _drained(scene, "north"):
            await scene.watcher.until(lambda: _without(scene, "north"), PATIENCE_S)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, whole)
    scene.over()
    yield


# --- orchestrators ----------------------------------------------------------------------------


@asynccontextmanager
async def orchestrator_kill(scene: Scene, _: str) -> AsyncIterator[None]:
    """The one that leads; the other must lead by a higher term."""
    async with _down(scene, scene.leaders.name()):
        await _another_leads(scene)
        yield


@asynccontextmanager
async def orchestrator_absent(scene: Scene, _: str) -> AsyncIterator[None]:
    """None at all for a while: what serves goes on serving."""
    first, second = scene.ground.orchestrators
    async with _down(scene, second):
        async with _down(scene, first):
            await asyncio.sleep(scene.absent_s)
        await _another_leads(scene)
    yield


@asynccontextmanager
async def two_orchestrators(scene: Scene, _: str) -> AsyncIterator[None]:
    """The leader is cut off and believes that it leads, while the other one does."""
    link = scene.ground.link(scene.leaders.name())
    link.half_open()
    try:
        await _another_leads(scene)
    finally:
        link.mend()
    yield


@asynccontextmanager
async def clock_skew(scene: Scene, _: str) -> AsyncIterator[None]:
    """Wall clocks jump, each to another time; then the leader dies, for terms are made of them."""
    for name in (*scene.ground.nodes, *scene.ground.orchestrators):
        scene.ground.skew(name, scene.random.choice(SKEWS_S))
    async with orchestrator_kill(scene, ""):
        yield


# --- messages, memory, inputs, moves ----------------------------------------------------------


@asynccontextmanager
async def message_disorder(scene: Scene, _: str) -> AsyncIterator[None]:
    """Somebody repeats inputs, activations, credits and segments' answers: late, in disorder."""
    async with Disorder(scene.ground.url, scene.ground.data_url, scene.topics, scene.random):
        await asyncio.sleep(DISORDER_S)
    scene.over()
    yield


@asynccontextmanager
async def memory_short(scene: Scene, node: str) -> AsyncIterator[None]:
    """The process gets next to no more memory for a while."""
    async with _short_of_memory(scene, node, MEMORY_LEFT):
        await asyncio.sleep(MEMORY_S)
    scene.over()
    yield


@asynccontextmanager
async def cannot_load(scene: Scene, node: str) -> AsyncIterator[None]:
    """It is drained, and whoever would take over has no memory for that: somebody else must."""
    able = next(nodes for _, nodes in scene.layout.parts if node in nodes)
    spares = {each.id for each in scene.layout.nodes if each.spare}
    short = next(name for name in able if name != node and name not in spares)
    async with _short_of_memory(scene, short, MEMORY_TO_LIVE), _drained(scene, node):
        if not await scene.watcher.until(lambda: _without(scene, node), PATIENCE_S):
            scene.journal.note("kept", node=node, short=short)
        elif any(short in scene.watcher.members(kind) for kind in KINDS):
            scene.one_pass.reasons["who had no memory has loaded all the same"] += 1
            scene.one_pass.outcomes["error"] += 1
        yield


@asynccontextmanager
async def poison(scene: Scene, node: str) -> AsyncIterator[None]:
    """An input that kills whoever computes one unit, until it is refused; the dead come back."""
    units = next((units for units, nodes in scene.layout.parts if node in nodes), f"{UNITS - 1}:")
    came_to = await scene.load.poison(int(units.partition(":")[0]))
    scene.journal.note("poison", outcome=came_to)
    if came_to not in ("right", "excused"):
        scene.one_pass.reasons["the poisonous input was not refused as poison"] += 1
        scene.one_pass.outcomes["error"] += 1
    scene.over()
    yield


@asynccontextmanager
async def planned_move(scene: Scene, node: str) -> AsyncIterator[None]:
    """A node is drained, and takes part again afterwards."""
    async with _drained(scene, node):
        yield


STRIKES: Final[Mapping[str, Strike]] = {
    strike.__name__: strike
    for strike in (
        worker_kill,
        worker_freeze,
        link_cut,
        link_half_open,
        link_throttle,
        link_degrade,
        control_broker_restart,
        control_broker_kill,
        data_broker_restart,
        data_broker_kill,
        orchestrator_kill,
        orchestrator_absent,
        door_kill,
        two_doors,
        two_orchestrators,
        clock_skew,
        message_disorder,
        disk_full,
        memory_short,
        cannot_load,
        poison,
        planned_move,
    )
}


# --- parts ------------------------------------------------------------------------------------


@asynccontextmanager
async def _down(scene: Scene, name: str) -> AsyncIterator[None]:
    scene.down.add(name)
    await scene.ground.kill(name)
    try:
        yield
    finally:
        scene.leaders.forget(name)
        await scene.ground.start(name)
        scene.down.discard(name)


@asynccontextmanager
async def _throttled(scene: Scene, node: str, factor: float) -> AsyncIterator[None]:
    link = scene.ground.link(node)
    link.throttle(factor)
    try:
        yield
    finally:
        link.mend()


@asynccontextmanager
async def _short_of_memory(scene: Scene, node: str, left: int) -> AsyncIterator[None]:
    pid = scene.ground.pid(node)
    whole = resource.prlimit(pid, resource.RLIMIT_AS)
    taken = psutil.Process(pid).memory_info().vms
    resource.prlimit(pid, resource.RLIMIT_AS, (taken + left, whole[1]))
    try:
        yield
    finally:
        if psutil.pid_exists(pid):
            resource.prlimit(pid, resource.RLIMIT_AS, whole)


@asynccontextmanager
async def _drained(scene: Scene, node: str) -> AsyncIterator[None]:
    topic = scene.topics.desired
    await _retain(scene, topic.name(node=node), topic.payload.encode(Desired(drain=True)))
    try:
        yield
    finally:
        await _retain(scene, topic.name(node=node), b"")


async def _retain(scene: Scene, topic: str, payload: bytes) -> None:
    connection = await MqttTransport().control(scene.ground.url, ConnectOptions())
    try:
        await connection.publish(Message(topic, payload, qos=1, retain=True))
    finally:
        await connection.close()


def _without(scene: Scene, node: str) -> bool:
    """Whether both kinds are served, and by others."""
    found = [scene.watcher.members(kind) for kind in ("one-pass", "generation")]
    return all(members and node not in members for members in found)


async def _another_leads(scene: Scene) -> None:
    """Waits for a higher term; that it came is what is detected, and the end of the fault."""
    led = scene.leaders.term

    def another() -> bool:
        leader = scene.watcher.leader
        return leader is not None and leader.term > led and leader.beat > 0

    if await scene.watcher.until(another, PATIENCE_S):
        scene.leaders.note()
        scene.detected()
        scene.over()
