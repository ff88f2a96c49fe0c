"""Any module, cut in three: every segment a fifth of the work at least, and the whole's answer."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.utils import _pytree as pytree

from dsi_mqtt.core.activation import JSON, Row, Tensor, pack_body
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.torch import GraphEngine, GraphFactory
from dsi_mqtt.errors import (
    CheckpointError,
    ConfigError,
    InvalidInputError,
    ModelFailedError,
    SplitError,
    WireError,
)

IMAGES = [(1, 48, 48), (3, 64, 48), (2, 33, 71)]
SQUARES = [(1, 32, 32), (3, 16, 24), (2, 48, 20)]


@pytest.fixture(autouse=True)
def graph_models(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The factories, importable as a user's package would be."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("graph_models")


@pytest.fixture(autouse=True)
def ordinary_way() -> Iterator[None]:
    """Modules have a faster way for themselves without gradients, to other last bits."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def opened(factory: str, **spec: Any) -> GraphEngine:
    return GraphFactory().open(ModelSpec(tier="graph", factory=f"graph_models:{factory}", **spec))


@pytest.fixture(scope="module")
def engines() -> Iterator[Callable[[str], GraphEngine]]:
    """Engines by factory, opened once: exporting takes its time."""
    made: dict[str, GraphEngine] = {}

    def engine(factory: str) -> GraphEngine:
        if factory not in made:
            made[factory] = opened(factory)
            made[factory].verify()
        return made[factory]

    yield engine
    sys.modules.pop("graph_models", None)


def thirds(engine: GraphEngine) -> tuple[int, int]:
    """The two cuts that leave the least segment most of the work."""
    flops = [unit.flops for unit in engine.graph.units]
    done = [0.0, *accumulate(flops)]
    parts = {
        (first, second): min(done[first], done[second] - done[first], done[-1] - done[second])
        for first, second in combinations(range(1, len(flops)), 2)
    }
    best = max(parts, key=lambda cuts: parts[cuts])
    assert parts[best] >= 0.2 * done[-1]
    return best


def images(channels: int) -> Callable[[int, int, int], dict[str, torch.Tensor]]:
    def make(rows: int, height: int, width: int) -> dict[str, torch.Tensor]:
        return {"": torch.randn(rows, channels, height, width)}

    return make


def words(rows: int, length: int) -> dict[str, torch.Tensor]:
    return {"": torch.randint(0, 30, (rows, length))}


def both(rows: int, side: int, length: int) -> dict[str, torch.Tensor]:
    ends = torch.randint(1, length + 1, (rows, 1))
    return {
        "image": torch.randn(rows, 3, side, side + 3),
        "words": torch.randint(0, 40, (rows, length)),
        "mask": torch.arange(length) < ends,
    }


CASES: list[tuple[str, Any, Any]] = [
    *(("resnet", images(3), sizes) for sizes in IMAGES),
    *(("unet", images(1), sizes) for sizes in SQUARES),
    *(("branches", both, sizes) for sizes in [(1, 20, 9), (3, 24, 5), (2, 31, 40)]),
    *(("attention", words, sizes) for sizes in [(1, 7), (3, 7), (2, 24), (1, 1), (4, 1)]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_three_segments_equal_the_module(
    engines: Any, graph_models: Any, ask: Any, case: tuple[str, Any, tuple[int, ...]]
) -> None:
    factory, make, sizes = case
    engine = engines(factory)
    torch.manual_seed(sum(sizes))
    inputs = make(*sizes)
    module = getattr(graph_models, factory)().module.eval().requires_grad_(False)
    with torch.no_grad():
        expected = module(inputs[""]) if "" in inputs else module(**inputs)
    rows = [
        {name: value[row].tolist() for name, value in inputs.items()} for row in range(sizes[0])
    ]
    bodies: list[Any] = [row.get("", row) for row in rows]
    answer = ask(engine, bodies if sizes[0] > 1 else bodies[0], *thirds(engine))
    for row, got in enumerate(answer["results"] if sizes[0] > 1 else [answer]):
        wanted = pytree.tree_map_only(torch.Tensor, lambda item: item[row], expected)  # noqa: B023 - used at once
        assert got == {"output": plain(wanted)}


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (value.double() if value.is_floating_point() else value).tolist()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def test_several_tensors_cross_a_cut(engines: Any) -> None:
    engine = engines("unet")
    start, _ = thirds(engine)
    engine.load(UnitRange(0, start))
    body = pack_body(JSON, json.dumps(torch.zeros(1, 16, 16).tolist()).encode())
    crossing = engine.forward(UnitRange(0, start), (Row(),), body)
    values = [item for item in crossing if item.name.startswith("value.")]
    assert len(values) == 2
    assert len({item.shape for item in values}) == 2
    engine.drop(UnitRange(0, start))


def test_masks_made_of_sizes_do_not_cross(engines: Any) -> None:
    engine = engines("attention")
    for cut in range(1, len(engine.graph.units)):
        engine.load(UnitRange(0, cut))
        body = pack_body(JSON, json.dumps(list(range(20))).encode())
        crossing = engine.forward(UnitRange(0, cut), (Row(),), body)
        assert not [item for item in crossing if item.shape[-2:] == (20, 20)]
    engine.drop(engine.graph.whole)


def test_a_segment_holds_its_own_weights_alone(engines: Any) -> None:
    engine = engines("attention")
    graph = engine.graph
    held = []
    for unit in range(len(graph.units)):
        engine.load(UnitRange(unit, unit + 1))
        held.append(engine.loaded_bytes())
        assert held[-1] == graph.weight_bytes(UnitRange(unit, unit + 1))
        engine.drop(UnitRange(unit, unit + 1))
    assert engine.loaded_bytes() == 0
    assert held[0] == held[-1] == 0
    engine.load(graph.whole)
    embeddings = 30 * 16 * 4
    assert engine.loaded_bytes() == graph.weight_bytes(graph.whole) == sum(held) - embeddings
    engine.drop(graph.whole)


def test_a_segment_can_be_warmed_up(engines: Any) -> None:
    for factory in ("unet", "branches"):
        engine = engines(factory)
        for units in (UnitRange(0, 3), UnitRange(3, len(engine.graph.units))):
            engine.load(units)
            assert engine.warm_up(units) > 0
            engine.drop(units)
            with pytest.raises(ModelFailedError, match="not loaded"):
                engine.warm_up(units)


def test_weights_come_from_a_folder(graph_models: Any, tmp_path: Path, ask: Any) -> None:
    trained = graph_models.attention().module
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01)
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    del state["out.weight"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    engine = opened("attention", path=str(tmp_path))
    with torch.no_grad():
        expected = trained.eval()(torch.tensor([[1, 2, 5]]))[0].double().tolist()
    assert ask(engine, [1, 2, 5], *thirds(engine)) == {"output": expected}
    assert engine.graph.digest != opened("attention").graph.digest
    del state["wide.1.weight"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    lacking = opened("attention", path=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"the tensor wide\.1\.weight is missing"):
        lacking.load(lacking.graph.whole)


def test_sizes_of_one_are_taken_where_they_were_tried(
    graph_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = pack_body(JSON, b"[3]")
    untried = opened("attention")
    untried.load(UnitRange(0, 2))
    with pytest.raises(InvalidInputError, match="the model takes 2 or more"):
        untried.forward(UnitRange(0, 2), (Row(),), body)
    untried.verify()
    assert untried.forward(UnitRange(0, 2), (Row(),), body)
    remembered = opened("attention")
    remembered.load(UnitRange(0, 2))
    monkeypatch.setattr(graph_models, "Attention", None)
    remembered.verify()
    assert remembered.forward(UnitRange(0, 2), (Row(),), body)
    squeezing = opened("squeezing")
    squeezing.verify()
    squeezing.load(squeezing.graph.whole)
    with pytest.raises(InvalidInputError, match="dimension 1 of value is 1"):
        squeezing.forward(squeezing.graph.whole, (Row(),), pack_body(JSON, b"[[0, 0, 0, 0]]"))


def test_the_same_model_has_the_same_digest_everywhere() -> None:
    assert opened("slices").graph == opened("slices").graph
    assert opened("slices").graph.digest != opened("slices", dtype="bfloat16").graph.digest


def test_a_bare_module_and_its_options(graph_models: Any, ask: Any) -> None:
    engine = opened("linear", options={"width": 6})
    engine.verify()
    row = [0.5, -1.0, 2.0, 0.0, 1.0, 3.0]
    expected = graph_models.linear(6)(torch.tensor([row]))[0].double().tolist()
    assert ask(engine, row, 1) == {"output": expected}


@pytest.mark.parametrize("kind", ["number", "buffer"])
def test_modules_that_compute_with_their_weights_when_built(
    graph_models: Any, ask: Any, kind: str
) -> None:
    engine = opened("measured", options={"kind": kind})
    expected = graph_models.measured(kind).module(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert ask(engine, [1, 2, 3, 4], 1, 2) == {"output": expected[0].double().tolist()}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("table", "computed from weights when it was built; make that a buffer"),
        ("like", "table is computed from weights when the model is built"),
    ],
)
def test_a_table_made_of_weights_is_refused_where_it_is_no_buffer(kind: str, reason: str) -> None:
    with pytest.raises(SplitError, match=reason):
        opened("measured", options={"kind": kind})


def test_ones_own_reading_and_writing(graph_models: Any, ask: Any) -> None:
    engine = opened("asked")
    engine.verify()
    left, right = [1.0, 2.0, 3.0, 4.0], [0.5, 0.0, 0.25, 1.0]
    made = graph_models.asked().module(torch.tensor([left]), torch.tensor([right]))
    expected = {"sum": made[0][0].sum().item(), "places": [4]}
    assert ask(engine, {"left": left, "right": right}, 2) == expected
    assert len(ask(engine, {"left": [left] * 2, "right": [right] * 2}, 2)["results"]) == 2
    engine.load(engine.graph.whole)
    for body, reason in [
        (b"{", "the input cannot be read"),
        (b'{"left": [1.0], "right": [2.0]}', "dimension 1 of left is 1; the model takes 4"),
        (b'{"left": 1.0, "right": 2.0}', "left has shape"),
    ]:
        with pytest.raises(InvalidInputError, match=reason):
            engine.forward(engine.graph.whole, (Row(),), pack_body(JSON, body))


@pytest.mark.parametrize(
    ("factory", "body", "reason"),
    [
        ("unet", [[[0.0] * 18] * 16], r"it needs .*image\.shape\[3\]"),
        (
            "unet",
            [[0.0] * 16] * 16,
            r"image has shape \(1, 16, 16\); the model takes \(…, 1, …, …\)",
        ),
        ("unet", [], "expected lists of numbers"),
        ("attention", [1] * 25, r"dimension 1 of words is 25; the model takes 24 at most"),
        ("attention", [1, 2, 99], "does not take this input: index out of range"),
        ("branches", [1, 2], "an input is an object with image, words, mask"),
        ("branches", {"image": 1}, "an input is an object with image, words, mask"),
        ("branches", [], "the input is empty"),
    ],
)
def test_inputs_that_the_graph_does_not_take(
    engines: Any, factory: str, body: object, reason: str
) -> None:
    engine = engines(factory)
    units = UnitRange(0, 4)
    engine.load(units)
    with pytest.raises(InvalidInputError, match=reason):
        engine.forward(units, (Row(),), pack_body(JSON, json.dumps(body).encode()))
    engine.drop(units)


def test_too_many_rows_are_refused_before_anything_is_computed(engines: Any) -> None:
    engine = engines("attention")
    engine.load(UnitRange(0, 2))
    body = pack_body(JSON, b"[[1, 2], [3, 4], [5, 6]]")
    with pytest.raises(InvalidInputError, match="3 rows"):
        engine.forward(UnitRange(0, 2), (Row(),), body, batch_max=2)
    engine.drop(UnitRange(0, 2))


def test_activations_of_another_cut_are_refused(engines: Any) -> None:
    engine = engines("unet")
    end = len(engine.graph.units)
    engine.load(engine.graph.whole)
    body = pack_body(JSON, json.dumps(torch.zeros(1, 16, 16).tolist()).encode())
    first = engine.forward(UnitRange(0, 5), (Row(),), body)
    assert engine.forward(UnitRange(5, end), (Row(),), first)
    for wrong, reason in [
        (first[:-1], "this cut has"),
        ((*first, Tensor("value.more", "bool", (), b"\1")), "this cut has"),
        (engine.forward(UnitRange(0, 7), (Row(),), body), "this cut has"),
    ]:
        with pytest.raises(WireError, match=reason):
            engine.forward(UnitRange(5, end), (Row(),), wrong)
    swapped = tuple(
        Tensor(item.name, "int32", item.shape, item.data) if "value" in item.name else item
        for item in first
    )
    with pytest.raises(WireError, match="which is not"):
        engine.forward(UnitRange(5, end), (Row(),), swapped)
    engine.drop(engine.graph.whole)


def test_sessions_are_refused(engines: Any) -> None:
    engine = engines("attention")
    engine.load(UnitRange(0, 1))
    with pytest.raises(ModelFailedError, match="kind: one-pass"):
        engine.forward(UnitRange(0, 1), (Row("s"),), pack_body(JSON, b"[1]"))
    calls: list[Callable[[], object]] = [
        lambda: engine.export_state("s", UnitRange(0, 1), 0, 1),
        lambda: engine.import_state("s", UnitRange(0, 1), 0, 1, b""),
    ]
    for call in calls:
        with pytest.raises(ModelFailedError, match="keeps no sessions"):
            call()
    engine.close("s")
    assert engine.state_bytes("s") == 0
    engine.drop(UnitRange(0, 1))


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("depends", r"depends on values of tensors \(graph_models\.py, line \d+\)"),
        ("chosen", "depend on values"),
        ("noisy", r"draws random numbers \(aten\.rand_like"),
        ("dropped", r"draws random numbers \(aten\.dropout"),
        ("counting", "writes to its own calls"),
        ("counting_a_part", "writes to its own calls"),
        ("one_row", r"shape '\[1, 4\]' is invalid"),
        ("rows_lost", "output 1 of the model has not one part for each row"),
        ("branching", "cannot be cut"),
        ("raising", r"no place for 2 dimensions \(graph_models\.py"),
    ],
)
def test_modules_that_cannot_be_cut_are_refused(then: str, reason: str) -> None:
    with pytest.raises(SplitError, match=reason) as raised:
        opened("refused", options={"then": then})
    assert str(raised.value).startswith("model.factory graph_models:refused: ")
    assert len(str(raised.value)) <= 200


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    engine = opened("refused", options={"then": "infinite"})
    with pytest.raises(SplitError, match="NaN or infinity"):
        engine.verify()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("none", "return an OwnModel with a sample"),
        ("names", "names up; the model takes left, right, extra"),
        ("many", "has 5 tensors, forward takes left, right, extra"),
        ("row", r"the sample's left has shape \(4,\)"),
        ("empty", "at least one"),
        ("list", "is a list"),
    ],
)
def test_wrong_samples_are_named(kind: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        opened("wrong_sample", options={"kind": kind})
