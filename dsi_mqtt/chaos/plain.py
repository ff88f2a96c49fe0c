"""A device without the project's client: paho, each input published once and never again."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTv311

from dsi_mqtt.chaos.journal import Journal
from dsi_mqtt.chaos.ledger import Ledger
from dsi_mqtt.chaos.load import RATE_PER_S
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

    @asynccontextmanager
    async def flowing(self, ledger: Ledger) -> AsyncIterator[None]:
        """Inputs go on within the block; behind it each was answered, or had its time."""
        self._ledger = ledger
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        paho = Client(CallbackAPIVersion.VERSION2, self._device, clean_session=False,
                      protocol=MQTTv311)  # fmt: skip
        paho.reconnect_delay_set(RECONNECT_S, RECONNECT_S)
        paho.on_connect = lambda *_: paho.subscribe(self._answers, qos=1)
        paho.on_subscribe = lambda *_: loop.call_soon_threadsafe(ready.set)
        paho.on_publish = lambda _c, _u, mid, *_: loop.call_soon_threadsafe(self._had, mid)
        paho.on_message = lambda _c, _u, message: loop.call_soon_threadsafe(self._answer, message)
        paho.connect_async(self._address.host, self._address.port)
        paho.loop_start()
        try:
            async with asyncio.timeout(CONNECT_S):
                await ready.wait()
            asking = asyncio.create_task(self._ask(paho))
            try:
                yield
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            await self._finish(ledger)
        finally:
            paho.disconnect()
            await asyncio.to_thread(paho.loop_stop)

    async def _ask(self, paho: Client) -> None:
        while True:
            number, text = self._next, next(self._texts)
            self._next += 1
            self._asked[number] = text
            self._ledger.sent(number, time.monotonic())
            payload = json.dumps({"id": str(number), "input": text}).encode()
            self._mids[paho.publish(self._input, payload, qos=1).mid] = number
            await asyncio.sleep(1 / RATE_PER_S)

    def _had(self, mid: int) -> None:
        if mid in self._mids:
            self._acknowledged.add(self._mids[mid])

    def _answer(self, message: MQTTMessage) -> None:
        answer = json.loads(message.payload)
        number, status = int(answer["id"]), answer["status"]
        if number not in self._asked:
            return  # of an earlier row
        now = time.monotonic()
        if status == "ok":
            right = answer["result"] == self._reference.results[self._asked[number]]
            self._ledger.answered(number, "right" if right else "wrong", now)
        else:
            self._ledger.answered(number, "error", now, str(answer["error"]["message"]))

    async def _finish(self, ledger: Ledger) -> None:
        """Waits for what is open; what then has no answer is lost."""
        late = time.monotonic() + DEADLINE_S
        while ledger.open and time.monotonic() < late:
            await asyncio.sleep(0.1)
        for number in ledger.unanswered():
            ledger.acknowledged_lost += number in self._acknowledged
            ledger.answered(number, "lost", time.monotonic())
            self._journal.note("lost", number=number, acknowledged=number in self._acknowledged)
        self._asked.clear()
        self._acknowledged.clear()
