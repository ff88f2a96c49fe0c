"""A model that nobody could plan with is refused where it is opened, not on everybody's topics."""

from __future__ import annotations

import asyncio

import pytest

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.model import UNITS_MAX, ModelSpec
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.worker.engines import EngineHost


@pytest.mark.parametrize(
    ("units", "outcome"), [(UNITS_MAX, ev.ModelOpened), (UNITS_MAX + 1, ev.ModelRefused)]
)
async def test_a_model_of_more_units_than_can_be_placed_is_refused(
    units: int, outcome: type
) -> None:
    told: asyncio.Queue[ev.Event] = asyncio.Queue()
    host = EngineHost(FakeFactory(), told.put_nowait)
    model = ModelSpec(tier="fake", options={"units": units})
    host.open(Deployment("large", model))
    async with asyncio.timeout(30):
        event = await told.get()
    host.shut_down()
    assert isinstance(event, outcome)
    if isinstance(event, ev.ModelRefused):
        assert "units must be 2 (a prelude and a head) to 256" in event.reason
