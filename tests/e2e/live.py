"""A live site for tests: two real brokers, an orchestrator and nodes, each a process of its own.

The nodes run the fake engine, whose results a test computes by itself; nothing waits for a time,
only for what the site says, and `PATIENCE_S` ends a test in which it does not come.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from dsi_mqtt.cli.common import control_connection, marker
from dsi_mqtt.cli.deploy import publish_spec, until_serving
from dsi_mqtt.cli.site import Site, running_site
from dsi_mqtt.cli.watching import Picture, watch
from dsi_mqtt.client import Client
from dsi_mqtt.core.activation import JSON, TOKENS, Row, Tensor, pack_body, unpack_body
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.core.table import Table
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.errors import UnknownDeploymentError
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message
from dsi_mqtt.transport.lasting import keep_connected
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.files import deployment_of
from dsi_mqtt.wire.topics import ROOT, Topics
from tests import preloaded
from tests.e2e.programs import PATIENCE_S, left_over
from tests.preloaded import Preloaded

# No node holds more than two and a half of the model's six units of one MiB, and the first two
# must stay in the city: three segments, whatever the links are like.
NODES: Final = (
    SiteNode("city", "city", memory_mib=5.5),
    SiteNode("north", "roadside", memory_mib=5.5),
    SiteNode("south", "roadside", memory_mib=5.5),
    SiteNode("city-spare", "city", memory_mib=5.5, spare=True),
)
OPTIONS: Final[dict[str, Any]] = {"units": 6, "unit_ms": 1, "weight_mib": 2}


def deployment(name: str, **changes: Any) -> Deployment:
    """A fake model in three segments. changes: fields of the file; model options as `options`."""
    return deployment_of(deployment_file(name, **changes), Path("test"))


def deployment_file(name: str, **changes: Any) -> dict[str, Any]:
    """What stands in its file."""
    options = OPTIONS | changes.pop("options", {})
    document = {
        "schema": "dsi.deployment/1",
        "name": name,
        "model": {"tier": "fake", "options": options},
        "input": {"max_bytes": 20_000, "batch_max": 4},
        "sla": {"deadline_ms": 30_000},
        "privacy": {"units": {"0:2": ["city"]}},
    }
    return document | changes


@cache
def whole_model(options: str) -> Engine:
    """Opened once: tests have thousands of answers to compare. options: as JSON."""
    spec = ModelSpec(options=json.loads(options), tier="fake")
    engine = FakeFactory(sleep=lambda _: None).open(spec)
    engine.load(engine.graph.whole)
    return engine


def unsplit(value: object, **options: Any) -> Any:
    """What the whole model makes of one input, computed here."""
    engine = whole_model(json.dumps(OPTIONS | options))
    body = pack_body(JSON, json.dumps(value).encode())
    return json.loads(unpack_body(engine.forward(engine.graph.whole, (Row(),), body))[1])


def generating(name: str, **changes: Any) -> Deployment:
    """A light fake model that generates, in three segments beside what else is held.

    changes: as for `deployment`.
    """
    options = {"ends": [3], "weight_mib": 0.01} | changes.pop("options", {})
    limits = {"context": 256, "max_tokens": 20, "idle_s": 0, "kv_mib_max": 1}
    limits |= changes.pop("generation", {})
    split = [
        {"units": "0:2", "nodes": ["city", "city-spare"]},
        {"units": "2:4", "nodes": ["north", "south"]},
        {"units": "4:6", "nodes": ["south", "north"]},
    ]
    changes = {"split": split, **changes}
    return deployment(name, kind="generation", generation=limits, options=options, **changes)


def unsplit_tokens(spec: Deployment, prompt: str, sampling: Sampling, most: int) -> list[int]:
    """What the whole model generates, computed here step by step."""
    engine = FakeFactory(sleep=lambda _: None).open(spec.model, spec.generation)
    engine.load(engine.graph.whole)
    vocabulary = engine.graph.vocabulary
    assert vocabulary is not None
    tokens = list(engine.text().read(prompt))
    made: list[int] = []
    while len(made) < most:
        fresh = np.array([tokens], "<i8")
        (out,) = engine.forward(
            engine.graph.whole,
            (Row("s", 0, len(tokens)),),
            (Tensor(TOKENS, "int64", fresh.shape, fresh.tobytes()),),
            sampling=(sampling,),
        )
        token = int(np.frombuffer(out.data, "<i8")[0])
        if token in vocabulary.ends:
            break
        tokens.append(token)
        made.append(token)
    return made


class LiveSite:
    """What runs, and what it says of itself. deaths: how often each process ended by itself."""

    def __init__(self, site: Site, deaths: Counter[str]) -> None:
        self.site = site
        self.deaths = deaths
        self.topics = Topics()

    @property
    def url(self) -> str:
        return self.site.url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connection(self) -> Any:
        return control_connection(self.url)

    async def until(self, holds: Callable[[Picture], bool], what: str) -> Picture:
        """The picture in which `holds`; fails saying `what` did not come, and what was instead."""
        last = Picture()

        def look(picture: Picture) -> bool:
            nonlocal last
            last = picture
            return holds(picture)

        try:
            async with asyncio.timeout(PATIENCE_S), self.connection() as connection:
                return await watch(connection, self.topics, look, marker(self.topics))
        except TimeoutError:
            raise AssertionError(f"{what}: did not come; {last}; logs: {self.logs()}") from None

    async def picture(self) -> Picture:
        """As everything is retained now."""
        return await self.until(lambda _: True, "retained state")

    async def deploy(self, spec: Deployment) -> Table:
        """Publishes it and waits until it serves. Raises InfeasibleError."""
        topics = self.topics
        async with self.connection() as connection:
            await publish_spec(connection, topics, spec)
            return await until_serving(connection, topics, spec, PATIENCE_S)

    async def undeploy(self, name: str) -> None:
        """Withdraws it and waits until it is released everywhere."""
        async with self.connection() as connection:
            spec = self.topics.spec.name(deployment=name)
            await connection.publish(Message(spec, b"", qos=1, retain=True))
        await self.until(
            lambda picture: name not in picture.specs and name not in picture.documents,
            f"{name} released",
        )

    async def serving(self, name: str, holds: Callable[[Table], bool], what: str) -> Table:
        """The table of `name` once it serves, prepares nothing, and `holds`."""

        def served(picture: Picture) -> bool:
            document = picture.documents.get(name)
            table = document.serve if document else None
            if document is None or table is None or document.prepare is not None:
                return False
            return table.state == "serving" and holds(table)

        picture = await self.until(served, what)
        table = picture.documents[name].serve
        assert table is not None
        return table

    async def online(self, node: str) -> None:
        """Waits until the node's present process has said that it is there."""
        pid = self.pid(node)

        def there(picture: Picture) -> bool:
            status = picture.statuses.get(node)
            return status is not None and (status.state, status.pid) == ("online", pid)

        await self.until(there, f"node {node} online")

    def pid(self, name: str) -> int:
        """Of a node, or of the orchestrator."""
        return self.site.children.child(name).pid

    async def kill(self, name: str) -> None:
        """As a power cut; returns when the process is gone."""
        child = self.site.children.child(name)
        os.kill(child.pid, signal.SIGKILL)
        await child.process.wait()

    async def terminate(self, name: str) -> int:
        """Politely; returns the exit code."""
        child = self.site.children.child(name)
        os.kill(child.pid, signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            return await child.process.wait()

    async def start(self, name: str) -> None:
        """The same node, or the orchestrator, as a new process."""
        await self.site.children.start(name, *self.site.children.child(name).arguments)

    def logs(self) -> dict[str, str]:
        """The last lines that each process has written."""
        files = self.site.children.log_path("x").parent.glob("*.log")
        return {file.stem: file.read_text()[-1500:] for file in files}


@asynccontextmanager
async def live_site(
    folder: Path,
    nodes: Sequence[SiteNode] = NODES,
    *,
    restart: bool = False,
    models: Path | None = None,
    processes: Preloaded = preloaded.light,
) -> AsyncIterator[LiveSite]:
    """folder: for state and logs. restart: whether what ends by itself is started again.

    models: where the nodes find the modules of factories. processes: `heavy` where models are of
    torch.
    """
    deaths = Counter[str]()
    async with running_site(
        nodes,
        root=ROOT,
        port=0,
        data_port=0,
        state=folder,
        restart=restart,
        ended=lambda child, _: deaths.update([child.name]),
        models=models,
        start=processes.start,
    ) as site:
        live = LiveSite(site, deaths)
        for node in nodes:
            await live.online(node.id)
        yield live
    assert not left_over(str(folder), site.url)


@dataclass
class Flow:
    """Inputs that go on, on a few lanes, whatever happens. answers: by input, what came back."""

    answers: dict[str, Any] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answered(self, count: int) -> None:
        """Waits for `count` more answers."""
        wanted = len(self.answers) + len(self.errors) + count
        async with asyncio.timeout(PATIENCE_S), self._more:
            await self._more.wait_for(lambda: len(self.answers) + len(self.errors) >= wanted)

    async def send(self, client: Client, name: str, text: str) -> None:
        try:
            result = await client.infer(name, text, timeout_s=PATIENCE_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test says it
            self.errors.append(error)
        else:
            assert text not in self.answers
            self.answers[text] = result
        async with self._more:
            self._more.notify_all()


@asynccontextmanager
async def flowing(live: LiveSite, name: str, lanes: int = 4) -> AsyncIterator[Flow]:
    """Sends inputs all the time; at the end every one sent must have been answered correctly,
    and all answers that anybody could see to one input must have been the same.
    """
    flow, ending = Flow(), asyncio.Event()

    async def lane(client: Client, number: int) -> None:
        count = 0
        while not ending.is_set():
            count += 1
            await flow.send(client, name, f"{number}/{count}")

    async with Spy(live, name) as spy, Client(live.url) as client:
        tasks = [asyncio.create_task(lane(client, number)) for number in range(lanes)]
        try:
            yield flow
        finally:
            ending.set()
            await asyncio.gather(*tasks)
    assert flow.errors == []
    assert flow.answers == {text: unsplit(text) for text in flow.answers}
    assert all(len(payloads) == 1 for payloads in spy.seen.values())


class Spy:
    """Reads along: every payload that was ever published as an answer, by correlation data.

    It does not see what is answered while it is connecting again after a broker's end.
    """

    def __init__(self, live: LiveSite, name: str) -> None:
        self.seen: dict[bytes, set[bytes]] = {}
        self._live = live
        self._filter = live.topics.answers(name, "+") + "#"
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read(), name="spy")
        async with asyncio.timeout(PATIENCE_S):
            await self._ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        async def listen(connection: ControlConnection) -> None:
            await connection.subscribe(self._filter, qos=1)
            self._ready.set()
            async for message in connection.messages():
                seen = self.seen.setdefault(message.correlation_data or b"", set())
                seen.add(bytes(message.payload))

        transport = MqttTransport()
        await keep_connected(lambda: transport.control(self._live.url, ConnectOptions()), listen)


class Device:
    """A plain MQTT 5 device of one deployment: what it publishes, and every answer it gets."""

    def __init__(self, live: LiveSite, name: str, device: str) -> None:
        self.input = live.topics.input.name(deployment=name, device=device)
        self.no_more = live.topics.cancel.name(deployment=name, device=device)
        self.own = live.topics.answers(name, device)
        self._live = live
        self._stack = live.connection()

    async def __aenter__(self) -> Self:
        self._connection: ControlConnection = await self._stack.__aenter__()
        await self._connection.subscribe(self.own + "#", qos=1)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.__aexit__(*error)

    async def listen(self, topic: str) -> None:
        """Takes what comes on another topic for an answer as well."""
        await self._connection.subscribe(topic, qos=1)

    async def ask(self, payload: bytes, **fields: Any) -> Message:
        """Publishes one input and returns the next answer."""
        await self.tell(payload, **fields)
        return await self.answer()

    async def tell(self, payload: bytes, **fields: Any) -> None:
        """Publishes one input."""
        await self._connection.publish(Message(self.input, payload, qos=1, **fields))

    async def cancel(self, payload: bytes) -> None:
        await self._connection.publish(Message(self.no_more, payload, qos=1))

    async def answer_to(self, id_: str) -> Message:
        """The next answer to the input of this id. One before may come again: the broker need not
        have known of its acknowledgement when its door was killed.
        """
        while json.loads(bytes((message := await self.answer()).payload))["id"] != id_:
            pass
        return message

    async def answer(self) -> Message:
        """The next answer, or message of a stream."""
        async with asyncio.timeout(PATIENCE_S):
            async for message in self._connection.messages():
                return message
        raise AssertionError("the connection ended")


async def unknown(live: LiveSite, name: str) -> bool:
    """Whether the client says that there is no such deployment."""
    async with Client(live.url) as client:
        try:
            await client.infer(name, "anybody?", timeout_s=PATIENCE_S)
        except UnknownDeploymentError:
            return True
    return False
