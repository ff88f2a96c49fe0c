"""`async with Client(url) as client: await client.infer("name", inputs)`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from dsi_mqtt.client.delivery import Delivery
from dsi_mqtt.client.generation import ALIVE_S, TextGeneration, Turns, ask_for
from dsi_mqtt.client.inputs import input_body
from dsi_mqtt.core.message import Priority
from dsi_mqtt.core.request import Answer
from dsi_mqtt.transport.base import Transport
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.inputs import read_answer
from dsi_mqtt.wire.topics import ROOT, Topics, check_device, check_name

TIMEOUT_S: Final = 60.0
GENERATION_TIMEOUT_S: Final = 600.0


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
        self._device = check_device(device or f"client-{os.urandom(6).hex()}")
        self._delivery = Delivery(url, self._device, Topics(root), transport or MqttTransport())

    @property
    def device(self) -> str:
        return self._device

    @property
    def connected(self) -> bool:
        """Whether the broker is there now. Nothing needs to wait for it."""
        return self._delivery.connected

    @property
    def resent(self) -> int:
        """Inputs sent again so far."""
        return self._delivery.pending.resent

    @property
    def repeated_answers(self) -> int:
        """Answers that came more than once; the caller saw the first only."""
        return self._delivery.pending.repeated_answers

    async def __aenter__(self) -> Self:
        """Connects. Raises BrokerUnreachableError or BrokerRefusedError."""
        await self._delivery.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._delivery.close()

    async def infer(
        self,
        deployment: str,
        inputs: Any,  # noqa: ANN401 — any JSON value
        *,
        content_type: str | None = None,
        timeout_s: float = TIMEOUT_S,
        priority: Priority = "normal",
    ) -> Any:  # noqa: ANN401 — any JSON value
        """The result for one input.

        inputs: any JSON value (a text, a list of texts, numbers), bytes (an image; name the
        `content_type`), or a numpy array. Returns the result as a JSON value (bytes where the
        model makes something else). priority: low lets others pass; high is for devices that the
        deployment names (`input.high`).

        Raises UnknownDeploymentError, DeadlineError after `timeout_s`, or another RequestError
        that says why there is no result.
        """
        answer = await self.infer_answer(
            deployment, inputs, content_type=content_type, timeout_s=timeout_s, priority=priority
        )
        return answer.result

    async def infer_answer(
        self,
        deployment: str,
        inputs: Any,  # noqa: ANN401 — any JSON value
        *,
        content_type: str | None = None,
        timeout_s: float = TIMEOUT_S,
        priority: Priority = "normal",
    ) -> Answer:
        """As `infer`, for a deployment with a fallback: the `result`, and whether it is of the
        `fallback`.
        """
        body, kind = input_body(inputs, content_type)
        deadline = time.monotonic() + timeout_s
        await self._delivery.known(check_name(deployment, "deployment"), deadline)
        call = self._delivery.submit(deployment, body, kind, deadline, priority=priority)
        try:
            answer = await call.answer
            return read_answer(bytes(answer.payload), answer.content_type, answer.user_properties)
        finally:
            self._delivery.leave(call.id)

    def generate(
        self,
        deployment: str,
        prompt: str | Sequence[int] | Turns,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        timeout_s: float = GENERATION_TIMEOUT_S,
        alive_s: float | None = ALIVE_S,
        priority: Priority = "normal",
    ) -> TextGeneration:
        """One generation: iterate it for pieces as they come, or await the whole.

        prompt: a text, token ids, or messages (`{"role": …, "content": …}`) for the model's chat
        template. What is None is as the deployment has it; a seed is drawn. timeout_s: for all of
        it. alive_s: the door gives up when it has not heard this device for so long, to which it
        speaks every second while a generation runs; None: never. priority: as of `infer`.

        Raises InvalidInputError for a prompt that is none; see `TextGeneration` for the rest.
        """
        ask = ask_for(
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop if stop is None or isinstance(stop, str) else list(stop),
            alive_s=alive_s,
        )
        name = check_name(deployment, "deployment")
        return TextGeneration(self._delivery, name, ask, timeout_s, priority)
