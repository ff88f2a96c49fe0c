"""A door for tests of what talks to one: it keeps the contract of docs/generation.md, no more.

It tells a story of its own instead of a model's, one word a token, and writes down what it heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from dsi_mqtt.core.activation import JSON
from dsi_mqtt.core.deployment import Deployment, Generation
from dsi_mqtt.core.generation import Completion, FinishReason, Partial, rolling_hash
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.errors import ConnectionLostError, RequestError
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message, Transport
from dsi_mqtt.wire.asks import completion_body, partial_answer, read_ask
from dsi_mqtt.wire.inputs import answer_error, answer_ok, parse_input
from dsi_mqtt.wire.topics import Topics

URL: Final = "mem://broker"
WORDS: Final = ("It", " rained", " all", " day,", " so", " they", " drove", " slowly", " home.")
CHAT: Final = Deployment(
    "chat", ModelSpec(tier="fake"), kind="generation", generation=Generation(context=512)
)
PATIENCE_S: Final = 30.0


def text_of(tokens: Sequence[int]) -> str:
    return "".join(WORDS[token % len(WORDS)] for token in tokens)


@dataclass
class Asked:
    """One input in the door's hands."""

    door: SimulatedDoor
    message: Message
    deployment: str
    device: str
    told: int = 0

    def __post_init__(self) -> None:
        self.parsed = parse_input(bytes(self.message.payload), self.message.content_type)
        self.input: Any = json.loads(self.parsed.body)

    async def tell(
        self,
        tokens: Sequence[int],
        *,
        index: int | None = None,
        take: int = 1,
        fallback: bool = False,
    ) -> bool:
        """A message of the stream with the tokens from `index` on, those told last by default.

        False where nobody is subscribed to it.
        """
        at = self.told if index is None else index
        self.told = len(tokens)
        new = tuple(tokens[at:])
        partial = Partial(take, at, new, text_of(new), rolling_hash("", tokens), fallback)
        return await self.send(partial_answer(self.parsed.identity, partial))

    async def complete(
        self,
        tokens: Sequence[int],
        *,
        take: int = 1,
        reason: FinishReason = "length",
        fallback: bool = False,
    ) -> None:
        told = Completion(take, tuple(tokens), text_of(tokens), rolling_hash("", tokens), reason, 5)
        body = completion_body(told)
        await self.send(answer_ok(self.parsed.identity, body, fallback=fallback))

    async def result(self, value: object, *, fallback: bool = False) -> None:
        body = json.dumps(value).encode()
        await self.send(answer_ok(self.parsed.identity, body, fallback=fallback))

    async def fail(self, code: str, sentence: str = "it went wrong") -> None:
        await self.send(answer_error(self.parsed.identity, Failure(code, sentence)))

    async def send(self, payload: bytes) -> bool:
        own = self.door.topics.result.name(deployment=self.deployment, device=self.device)
        return await self.door.connection.publish(
            Message(
                self.message.response_topic or own,
                payload,
                qos=1,
                content_type=JSON,
                correlation_data=self.message.correlation_data,
            )
        )


Script = Callable[[Asked], Awaitable[None]]


async def story(asked: Asked) -> None:
    """Tells `max_tokens` words, one a message, and ends at a stop string."""
    spec = asked.door.deployments[asked.deployment]
    try:
        ask = read_ask(asked.parsed.body, spec.generation or Generation())
    except RequestError as error:
        await asked.fail(error.code, str(error))
        return
    tokens: list[int] = []
    for number in range(ask.max_tokens):
        if any(stop in text_of([*tokens, number]) for stop in ask.stop):
            await asked.complete(tokens, reason="stop")
            return
        tokens.append(number)
        if ask.stream:
            await asked.tell(tokens)
    await asked.complete(tokens)


@dataclass
class SimulatedDoor:
    """script: what it does with each input; a repeated one is not done again."""

    connection: ControlConnection
    script: Script = story
    deployments: dict[str, Deployment] = field(default_factory=dict)
    topics: Topics = field(default_factory=Topics)
    inputs: list[Message] = field(default_factory=list)
    cancels: list[Message] = field(default_factory=list)
    alive: list[Message] = field(default_factory=list)
    answers_cancels: bool = True
    _running: dict[bytes | str, asyncio.Task[None]] = field(default_factory=dict)
    _heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def deploy(self, spec: Deployment) -> None:
        """Serves it."""
        self.deployments[spec.name] = spec
        for topic in (self.topics.input, self.topics.cancel, self.topics.alive):
            await self.connection.subscribe(topic.filter(deployment=spec.name), qos=1)
        name = self.topics.spec.name(deployment=spec.name)
        payload = self.topics.spec.payload.encode(spec)
        await self.connection.publish(Message(name, payload, qos=1, retain=True))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits for what it hears to be so."""
        async with asyncio.timeout(PATIENCE_S), self._heard:
            await self._heard.wait_for(holds)

    async def serve(self) -> None:
        try:
            async for message in self.connection.messages():
                await self._receive(message)
                async with self._heard:
                    self._heard.notify_all()
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _receive(self, message: Message) -> None:
        asked = self.topics.input.parts(message.topic)
        if asked is not None or self.topics.cancel.parts(message.topic):
            id_ = message.correlation_data or json.loads(bytes(message.payload))["id"]
        if asked is not None:
            self.inputs.append(message)
            if id_ not in self._running:
                work = self._work(Asked(self, message, asked["deployment"], asked["device"]))
                self._running[id_] = asyncio.create_task(work)
        elif self.topics.cancel.parts(message.topic):
            assert isinstance(json.loads(bytes(message.payload)), dict)
            self.cancels.append(message)
            if self.answers_cancels and id_ in self._running:
                self._running[id_].cancel()
        else:
            assert message.qos == 0
            self.alive.append(message)

    async def _work(self, asked: Asked) -> None:
        try:
            await self.script(asked)
        except asyncio.CancelledError:
            await asked.fail("cancelled", "its device cancelled it")


@asynccontextmanager
async def simulated_door(
    transport: Transport,
    url: str = URL,
    script: Script = story,
    *,
    deployments: Sequence[Deployment] = (CHAT,),
) -> AsyncIterator[SimulatedDoor]:
    connection = await transport.control(url, ConnectOptions())
    door = SimulatedDoor(connection, script)
    for deployment in deployments:
        await door.deploy(deployment)
    serving = asyncio.create_task(door.serve())
    try:
        yield door
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionLostError):
            await serving  # or it has ended with the broker
        await connection.close()
