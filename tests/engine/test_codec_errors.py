"""What codecs do to answers: measured on samples, at each cut, and at several together."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dsi_mqtt.core.activation import JSON, Row, Tensor, Tensors, pack_body
from dsi_mqtt.core.codecs import COSINE, PERPLEXITY
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine import codec_errors as measured
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.engine.codec_errors import (
    CUTS_MAX,
    Way,
    codec_errors,
    spread_cuts,
    way_errors,
)
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.errors import MESSAGE_MAX, ConfigError

SAMPLES = ["ice", "a flood", "gravel on the road"]


def opened(generation: Generation | None = None, **options: Any) -> Engine:
    model = ModelSpec(tier="fake", options={"units": 5, "hidden": 64, **options})
    engine = FakeFactory(sleep=lambda _: None).open(model, generation)
    engine.load(engine.graph.whole)
    return engine


def test_raw_hops_add_nothing_and_coarser_codecs_more() -> None:
    errors = codec_errors(opened(), SAMPLES, ("raw", "fp16", "int8g64"), COSINE)
    assert errors["raw"] == pytest.approx(0, abs=1e-12)
    assert 1e-12 < errors["fp16"] < errors["int8g64"] < 0.01


def test_the_worst_is_of_the_cuts_and_of_the_samples() -> None:
    engine = opened()
    ways = [Way("int8g32", (cut,)) for cut in range(1, 5)]
    found = way_errors(engine, SAMPLES, ways, COSINE)
    assert [one.way for one in found] == ways
    assert all(one.mean <= one.worst for one in found)
    assert any(one.mean < one.worst for one in found)
    assert codec_errors(engine, SAMPLES, ("int8g32",), COSINE) == {
        "int8g32": max(one.worst for one in found)
    }


def test_hops_that_are_coded_together_are_told_together() -> None:
    """The segments between two of them compute with what the first one left."""
    engine, seen = opened(), list[UnitRange]()
    forward = engine.forward

    def watched(units: UnitRange, rows: tuple[Row, ...], tensors: Tensors, **more: Any) -> Tensors:
        seen.append(units)
        return forward(units, rows, tensors, **more)

    engine.forward = watched  # type: ignore[method-assign]  # to look at what is computed
    ways = [Way("int8g32", (2,)), Way("int8g32", (2, 4)), Way("int8g32", (4,))]
    first, both, last = way_errors(engine, SAMPLES[:1], ways, COSINE)
    # Over raw hops everything, by each way what is behind its first cut.
    assert seen == [UnitRange(0, 2), *[UnitRange(2, 4)] * 3, *[UnitRange(4, 5)] * 4]
    assert len({first.worst, both.worst, last.worst}) == 3


def test_segments_are_loaded_one_after_the_other_and_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = opened(weight_mib=1)
    engine.drop(engine.graph.whole)
    held: list[int] = []
    ways = [Way("fp16", (1,)), Way("fp16", (3,))]
    found = way_errors(engine, SAMPLES, ways, COSINE, lambda: held.append(engine.loaded_bytes()))
    assert held == [0] * 3
    monkeypatch.setattr(measured, "HELD_BYTES", 1)
    assert way_errors(engine, SAMPLES, ways, COSINE, lambda: held.append(0)) == found
    assert len(held) == 3 + 3 * len(SAMPLES), "one sample at a time"


class Labels:
    """Two units; the second answers with labels, best first: others than where nothing moved."""

    ENTERS = np.array([1.0001, 3.0], "<f4").tobytes()

    def __init__(self) -> None:
        self.graph = opened(units=2).graph
        self.load = self.drop = self.close = lambda _: None

    def forward(self, units: UnitRange, rows: tuple[Row, ...], tensors: Tensors) -> Tensors:
        del rows
        if units.stop < 2:
            return (Tensor("hidden_states", "float32", (2,), self.ENTERS),)
        scores = [0.5, 0.49] if tensors[0].data == self.ENTERS else [0.49, 0.5]
        items = [{"label": f"l{i}", "id": i, "score": score} for i, score in enumerate(scores)]
        items.sort(key=lambda item: -float(str(item["score"])))
        return pack_body(JSON, json.dumps({"labels": items}).encode())


def test_labels_are_compared_by_their_id_and_not_by_their_place() -> None:
    (found,) = way_errors(Labels(), ["x"], [Way("fp16", (1,))], COSINE)  # type: ignore[arg-type]
    assert found.worst == pytest.approx(1 - 2 * 0.5 * 0.49 / (0.5**2 + 0.49**2))


@pytest.mark.parametrize(
    ("samples", "metric", "generation", "said"),
    [
        (SAMPLES, "bleu", None, "codecs.error.metric: 'bleu' is none of cosine, perplexity_incr"),
        ([], COSINE, None, "codecs.error.samples: holds no sample"),
        (SAMPLES, PERPLEXITY, None, "codecs.error.metric: perplexity_increase is of generations"),
        (SAMPLES, COSINE, Generation(context=16), "codecs.error.metric: cosine is of one pass"),
        (SAMPLES, PERPLEXITY, Generation(context=16), "codecs.error.metric: this model has no"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    samples: list[str], metric: str, generation: Generation | None, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        codec_errors(opened(generation), samples, ("fp16",), metric)
    assert str(refused.value).startswith(said)
    assert len(str(refused.value)) <= MESSAGE_MAX


def test_of_many_cuts_some_are_tried_with_the_first_and_the_last() -> None:
    assert spread_cuts(2) == (1,)
    assert spread_cuts(CUTS_MAX + 1) == tuple(range(1, CUTS_MAX + 1))
    many = spread_cuts(81)
    assert (len(many), many[0], many[-1]) == (CUTS_MAX, 1, 80)
    assert list(many) == sorted(set(many))
