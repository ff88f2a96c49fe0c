"""A device without the project's client: paho, each input published once and never again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from paho.mqtt.client import Client, MQTTMessage, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from dsi_mqtt.chaos.journal import Journal
from dsi_mqtt.chaos.ledger import Ledger
from dsi_mqtt.chaos.reference import DEADLINE_S, ONE_PASS, Reference
from dsi_mqtt.transport.address import parse_broker_url
from dsi_mqtt.wire.topics import Topics

CONNECT_S: Final = 10.0
RECONNECT_S: Final = 1


class PlainClient:
    """MQTT 3.1.1, QoS 1, a durable session, paho's own reconnecting: what a careful device does.

    What paho has not been acknowledged it sends again by itself; what the broker acknowledged and
    then forgot is nobody's any more.
    """

    def __init__(self, url: str, topics: Topics, reference: Reference, journal: Journal) -> None:
        self._address = parse_broker_url(url)
        self._reference = reference
        self._journal = journal
        self._device = f"plain-{os.urandom(4).hex()}"
        self._input = topics.input.name(deployment=ONE_PASS, device=self._device)
        self._answers = topics.answers(ONE_PASS, self._device) + "#"
        self._texts = reference.texts()
        self._asked: dict[int, str] = {}
        self._acknowledged: set[int] = set()
        self._mids: dict[int, int] = {}
        self._ledger = Ledger("one-pass")
        self._next = 0
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def flowing(self, ledger: Ledger, rate_per_s: float) -> AsyncIterator[None]:
        """Inputs go on within the block; behind it each was answered, or had its time."""
        self._ledger = ledger
        ready = asyncio.Event()
        paho = self._client(ready)
        paho.connect_async(self._address.host, self._address.port)
        paho.loop_start()
        try:
            async with asyncio.timeout(CONNECT_S):
                await ready.wait()
            asking = asyncio.create_task(self._ask(paho, rate_per_s))
            try:
                yield
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            await self._finish(ledger)
        finally:
            paho.disconnect()
            await asyncio.to_thread(paho.loop_stop)

    def _client(self, ready: asyncio.Event) -> Client:
        """Its callbacks come on a thread of its own. ready: it is subscribed."""
        soon = asyncio.get_running_loop().call_soon_threadsafe
        paho = Client(
            CallbackAPIVersion.VERSION2, self._device, clean_session=False, protocol=MQTTv311
        )
        paho.reconnect_delay_set(RECONNECT_S, RECONNECT_S)

        def connected(*_: object) -> None:
            paho.subscribe(self._answers, qos=1)

        def subscribed(*_: object) -> None:
            soon(ready.set)

        def published(_client: Client, _given: object, mid: int, *_: object) -> None:
            soon(self._had, mid)

        def came(_client: Client, _given: object, message: MQTTMessage) -> None:
            soon(self._answer, message)

        paho.on_connect, paho.on_subscribe = connected, subscribed
        paho.on_publish, paho.on_message = published, came
        return paho

    async def _ask(self, paho: Client, rate_per_s: float) -> None:
        while True:
            number, text = self._next, next(self._texts)
            self._next += 1
            self._asked[number] = text
            self._ledger.sent(number, time.monotonic())
            payload = json.dumps({"id": str(number), "input": text}).encode()
            self._mids[paho.publish(self._input, payload, qos=1).mid] = number
            await asyncio.sleep(1 / rate_per_s)

    def _had(self, mid: int) -> None:
        if mid in self._mids:
            self._acknowledged.add(self._mids[mid])

    def _answer(self, message: MQTTMessage) -> None:
        answer = json.loads(message.payload)
        number, status = int(answer["id"]), answer["status"]
        if number not in self._asked:
            return  # of an earlier row
        now = time.monotonic()
        self._changed.set()
        if status == "ok":
            right = answer["result"] == self._reference.results[self._asked[number]]
            self._ledger.answered(number, "right" if right else "wrong", now)
        else:
            self._ledger.answered(number, "error", now, str(answer["error"]["message"]))

    async def _finish(self, ledger: Ledger) -> None:
        """Waits for what is open; what then has no answer is lost."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_S):
                while ledger.open:
                    await self._changed.wait()
                    self._changed.clear()
        for number in ledger.unanswered():
            ledger.acknowledged_lost += number in self._acknowledged
            ledger.answered(number, "lost", time.monotonic())
            self._journal.note("lost", number=number, acknowledged=number in self._acknowledged)
        self._asked.clear()
        self._acknowledged.clear()
