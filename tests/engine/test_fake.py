from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.activation import JSON, NPY, TEXT, Row, Tensor, pack_body, unpack_body
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.fake import FakeEngine, FakeFactory, describe
from dsi_mqtt.engine.fake_options import FakeOptions, read_options
from dsi_mqtt.errors import (
    CheckpointError,
    ConfigError,
    InvalidInputError,
    ModelFailedError,
    SplitError,
    WireError,
)

ROW = (Row(),)


def opened(**options: object) -> FakeEngine:
    engine = FakeFactory(sleep=lambda _: None).open(ModelSpec(tier="fake", options=options))
    engine.load(engine.graph.whole)
    return engine


def run(engine: FakeEngine, body: object, *cuts: int) -> object:
    tensors = pack_body(JSON, json.dumps(body).encode())
    points = (0, *cuts, len(engine.graph.units))
    for start, stop in pairwise(points):
        tensors = engine.forward(UnitRange(start, stop), ROW, tensors)
    return json.loads(unpack_body(tensors)[1])


@given(
    body=st.recursive(
        st.text() | st.integers(-9, 9), lambda items: st.lists(items, min_size=1), max_leaves=1
    )
    | st.lists(st.text(max_size=5), min_size=1, max_size=4),
    cuts=st.sets(st.integers(1, 5)),
)
def test_any_cut_computes_what_the_whole_does(body: object, cuts: set[int]) -> None:
    engine = opened(units=6)
    if isinstance(body, list) and isinstance(body[0], list):
        with pytest.raises(InvalidInputError):
            run(engine, body)
        return
    assert run(engine, body, *sorted(cuts)) == run(engine, body)


def test_a_row_is_computed_alike_alone_and_in_a_batch() -> None:
    engine = opened()
    assert run(engine, ["a", 2, "c"], 3) == [run(engine, item, 2) for item in ("a", 2, "c")]


@pytest.mark.parametrize("path", [[0, 1, 3, 4], [0, 2, 1, 3, 4], [0, 1, 1, 2, 3, 4]])
def test_a_dropped_swapped_or_repeated_unit_changes_the_result(path: list[int]) -> None:
    engine = opened(units=5)
    tensors = pack_body(JSON, b'"x"')
    for unit in path:
        tensors = engine.forward(UnitRange(unit, unit + 1), ROW, tensors)
    assert json.loads(unpack_body(tensors)[1]) != run(engine, "x")


def test_costs_are_asked_of_the_sleep_that_was_passed_in() -> None:
    slept: list[float] = []
    options = {"units": 4, "unit_ms": [1, 2, 4, 8], "load_ms": 100}
    engine = FakeFactory(sleep=slept.append).open(ModelSpec(tier="fake", options=options))
    engine.load(UnitRange(0, 3))
    assert slept == [0.1] * 3
    slept.clear()
    engine.forward(UnitRange(0, 3), ROW, pack_body(JSON, b'["a", "b"]'))
    assert slept == [pytest.approx(0.014)]
    assert engine.warm_up(UnitRange(1, 3)) == pytest.approx(0.006)


def test_weights_are_held_and_freed_unit_by_unit() -> None:
    engine = FakeFactory().open(
        ModelSpec(tier="fake", options={"units": 3, "weight_mib": [1, 2, 4], "allocate": True})
    )
    engine.load(UnitRange(0, 2))
    engine.load(UnitRange(1, 3))
    assert engine.loaded_bytes() == 7 << 20 == engine.graph.weight_bytes(engine.graph.whole)
    engine.drop(UnitRange(1, 2))
    assert engine.loaded_bytes() == 5 << 20
    with pytest.raises(ModelFailedError, match=r"units \[1\] are not loaded"):
        engine.forward(UnitRange(0, 3), ROW, pack_body(JSON, b"1"))


def test_digest_tells_models_apart() -> None:
    assert opened(seed=1).graph.digest == opened(seed=1).graph.digest
    assert opened(seed=1).graph.digest != opened(seed=2).graph.digest
    assert run(opened(seed=1), "x") != run(opened(seed=2), "x")


def test_inputs_misbehave_on_request_in_the_unit_they_name() -> None:
    engine = opened(units=5)
    with pytest.raises(RuntimeError, match="unit 0 raised"):
        run(engine, {"raise": True})
    tensors = engine.forward(UnitRange(0, 3), ROW, pack_body(JSON, b'["fine", {"raise": 3}]'))
    with pytest.raises(RuntimeError, match="unit 3 raised"):
        engine.forward(UnitRange(3, 5), ROW, tensors)


def test_a_poisonous_input_ends_the_process() -> None:
    ended: list[int] = []
    factory = FakeFactory(exit_process=ended.append)
    engine = factory.open(ModelSpec(tier="fake"))
    engine.load(engine.graph.whole)
    run(engine, {"exit": 2}, 2)
    assert ended == [70]


@pytest.mark.parametrize(
    ("kind", "body"),
    [(JSON, b"{"), (JSON, b"null"), (JSON, b"[[1]]"), (JSON, b"[]"), (JSON, b'{"raise": "x"}'),
     (JSON, b'{"unknown": 1}'), (TEXT, b"\xff"), (NPY, b"1"), (JSON, b"true")],
)  # fmt: skip
def test_unreadable_inputs_are_their_senders_fault(kind: str, body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        opened().forward(UnitRange(0, 6), ROW, pack_body(kind, body))


def test_the_prelude_takes_no_more_rows_than_it_may() -> None:
    slept: list[float] = []
    engine = FakeFactory(sleep=slept.append).open(ModelSpec(tier="fake", options={"unit_ms": 1}))
    engine.load(engine.graph.whole)
    slept.clear()
    three = pack_body(JSON, b'["a", "b", "c"]')
    with pytest.raises(InvalidInputError, match=r"3 rows.* 2 at once \(input.batch_max\)"):
        engine.forward(UnitRange(0, 3), ROW, three, batch_max=2)
    assert slept == []
    activation = engine.forward(UnitRange(0, 3), ROW, three, batch_max=3)
    assert engine.forward(UnitRange(3, 6), ROW, activation, batch_max=1)


@pytest.mark.parametrize(
    "shape", [(4,), (1, 4), (2, 3)], ids=["narrow", "narrow batch", "other rows"]
)
def test_an_activation_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    hidden = Tensor("hidden_states", "float32", shape, bytes(4 * int(np.prod(shape))))
    faults = Tensor("faults", "int64", (1, 2), bytes(16))
    with pytest.raises(WireError, match="expected"):
        opened(hidden=3).forward(UnitRange(1, 6), ROW, (hidden, faults))


def test_refusals_on_request() -> None:
    with pytest.raises(SplitError, match="a second tensor"):
        opened(refuse="a second tensor would cross").verify()
    opened().verify()
    engine = FakeFactory().open(ModelSpec(tier="fake", options={"missing": [2]}))
    engine.load(UnitRange(0, 2))
    with pytest.raises(CheckpointError, match="unit 2"):
        engine.load(UnitRange(1, 4))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"unit": 3}, "unknown unit"), ({"units": 1}, "units"), ({"units": "4"}, "options.units"),
     ({"unit_ms": [1, 2]}, "unit_ms has 2 values"), ({"weight_mib": -1}, "weight_mib"),
     ({"allocate": 1}, "allocate"), ({"missing": 3}, "missing"), ({"refuse": 1}, "refuse"),
     ({"units": 2.5}, "options.units"), ({"units": 10**30}, "units must be 2 .* to 256"),
     ({"hidden": 2**40}, "hidden 1 to"), ({"seed": -1}, "seed must be 0 or more"),
     ({"weight_mib": float("nan")}, "weight_mib must be from 0"),
     ({"unit_ms": [float("inf")] * 6}, "unit_ms must be from 0"),
     ({"load_ms": -1}, "load_ms must be from 0")],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        FakeFactory().open(ModelSpec(tier="fake", options=options))


def test_defaults_are_a_model() -> None:
    assert len(FakeEngine(FakeOptions()).graph.units) == 6


def test_what_crosses_is_told_for_simulations_only() -> None:
    options = {"units": 3, "crossing_kib": (20, 5, 0), "input_kib": 40, "result_kib": 2}
    graph = describe(read_options(options))
    assert [graph.boundary_bytes(cut) for cut in (1, 2)] == [20_480, 5_120]
    assert (graph.input_bytes, graph.result_bytes) == (40_960, 2_048)
    assert describe(FakeOptions(units=3)).boundary_bytes(1) == 64
    with pytest.raises(ConfigError, match="are for simulations"):
        FakeFactory().open(ModelSpec(tier="fake", options=options))
