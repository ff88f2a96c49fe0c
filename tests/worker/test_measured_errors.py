"""A node measures what codecs do to a deployment's samples, and serves too where it cannot."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.deployment import CodecError, Codecs, Deployment
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.worker.engines import EngineHost
from dsi_mqtt.worker.measured_errors import measured_errors

MODEL = ModelSpec(tier="fake", options={"units": 4, "hidden": 64})


def deployment(samples: Path | None, metric: str = "cosine") -> Deployment:
    error = CodecError(metric, min=0.999, samples=None if samples is None else str(samples))
    return Deployment("d", MODEL, codecs=Codecs(("raw", "fp16", "int8g32"), error))


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(f"sample {i}") + "\n" for i in range(40)))
    return file


def test_each_allowed_codec_is_measured_and_nothing_stays_loaded(samples: Path) -> None:
    engine = FakeFactory().open(MODEL)
    found = measured_errors(engine, deployment(samples), None, None)
    assert found.keys() == {"fp16", "int8g32"}
    assert 0 <= found["fp16"] < found["int8g32"] < 0.01
    assert engine.loaded_bytes() == 0


def test_samples_may_lie_where_models_do(samples: Path) -> None:
    engine = FakeFactory().open(MODEL)
    elsewhere = deployment(Path("/nowhere") / samples.name)
    assert measured_errors(engine, elsewhere, samples.parent, None)
    assert not measured_errors(engine, elsewhere, None, None)


def test_what_cannot_be_measured_is_left_out(
    samples: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeFactory().open(MODEL)
    assert not measured_errors(engine, deployment(None), None, None)
    assert not caplog.records
    assert not measured_errors(engine, deployment(samples), None, 1)
    assert not measured_errors(engine, deployment(samples, "perplexity_increase"), None, None)
    samples.write_text('{"raise": true}\n')
    assert not measured_errors(engine, deployment(samples), None, None)
    assert len(caplog.records) == 3
    assert all("not measured here" in record.message for record in caplog.records)
    assert engine.loaded_bytes() == 0


async def test_a_model_is_told_with_its_errors(samples: Path) -> None:
    told: asyncio.Queue[ev.Event] = asyncio.Queue()
    host = EngineHost(FakeFactory(), told.put_nowait)
    try:
        host.open(deployment(samples))
        event = await asyncio.wait_for(told.get(), 60)
        assert isinstance(event, ev.ModelOpened)
        assert event.codec_errors.keys() == {"fp16", "int8g32"}
        host.open(replace(deployment(samples), codecs=Codecs()))
        event = await asyncio.wait_for(told.get(), 60)
        assert isinstance(event, ev.ModelOpened)
        assert not event.codec_errors
    finally:
        host.shut_down()
