"""A node's home brokers: as it was told, or as what is retained on the site says by now.

Whoever started the brokers writes `broker/site`, and writes it again when it is lost. A node that
starts meanwhile sends its tensors to the control broker, and goes elsewhere when it hears where:
once that has stood for a while, for what a stranger writes there is written over at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, NoReturn

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.transport.address import parse_broker_url, where_tensors_go
from dsi_mqtt.transport.base import Message
from dsi_mqtt.wire.topics import Topics

log = logging.getLogger(__name__)

# Whoever started the brokers writes over a stranger's word after 0.5 s.
SETTLED_S: Final = 2.0


class Home:
    """follows: nobody has told this node where tensors go, so that the site does.

    settled: waits until a word has stood long enough to count.
    """

    def __init__(
        self,
        brokers: BrokerUrls,
        topics: Topics,
        emit: Callable[[ev.Event], None],
        *,
        follows: bool,
        settled: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(SETTLED_S),
    ) -> None:
        self.brokers = brokers
        self._site = topics.site
        self._emit = emit
        self._follows = follows
        self._settled = settled
        self._said = brokers.data
        self._heard = asyncio.Event()
        self._moved = asyncio.Event()

    def filters(self) -> tuple[str, ...]:
        """What is to be listened to."""
        return (self._site.name(),) if self._follows else ()

    def heard(self, message: Message) -> bool:
        """Whether this is about where tensors go. Raises WireError where it does not say."""
        if not self._follows or message.topic != self._site.name():
            return False
        if message.payload:  # else it will be written again
            port = self._site.payload.decode(message.payload).data_port
            self._said = where_tensors_go(self.brokers.control, port)
            self._heard.set()
        return True

    async def follow(self) -> NoReturn:
        """Goes where the site says."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            await self._settled()
            if not self._heard.is_set():
                self._go()

    async def left(self, data: str) -> None:
        """Returns when tensors go elsewhere than to `data`."""
        while self.brokers.data == data:
            self._moved.clear()
            await self._moved.wait()

    def _go(self) -> None:
        where = parse_broker_url(self._said)
        if where == parse_broker_url(self.brokers.data):
            return  # whichever text says it
        log.info("tensors go to %s from now on, as %s says", where, self._site.name())
        self.brokers = replace(self.brokers, data=self._said)
        self._moved.set()
        self._emit(ev.BrokersMoved(self.brokers))
