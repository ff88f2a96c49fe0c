"""Models of one's own, from a factory that the deployment names."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from dsi_mqtt.core.activation import JSON, NPY, Row, pack_body
from dsi_mqtt.core.model import ModelSpec, Tie, UnitRange
from dsi_mqtt.engine.torch import TorchEngine, TorchFactory, sequential
from dsi_mqtt.errors import CheckpointError, ConfigError, InvalidInputError, SplitError

ROW = [0.1, -2.0, 3.0, 0.5, 0.25, 1.0, 7.0, -1.5]


@pytest.fixture(autouse=True)
def own_models(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The factories, importable as a user's package would be."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    return importlib.import_module("own_models")


def opened(factory: str, **spec: Any) -> TorchEngine:
    return TorchFactory().open(
        ModelSpec(tier="sequential", factory=f"own_models:{factory}", **spec)
    )


def test_every_child_is_a_unit(own_models: Any, ask: Any) -> None:
    engine = opened("mlp")
    engine.verify()
    assert [unit.name for unit in engine.graph.units] == [
        "prelude",
        "0",
        "1",
        "2",
        "3",
        "4",
        "head",
    ]
    assert engine.graph.ties == (Tie((1, 4), 8 * 8 * 4),)
    expected = own_models.mlp().eval()(torch.tensor([ROW]))[0].double().tolist()
    for cuts in ([], [1], [6], [1, 2, 3, 4, 5, 6]):
        assert ask(engine, ROW, *cuts) == {"output": expected}
    assert ask(engine, [ROW, ROW], 3)["results"][1]["output"] == pytest.approx(expected)


def test_options_go_to_the_factory(ask: Any) -> None:
    wide = opened("mlp", options={"width": 4, "seed": 5})
    assert len(ask(wide, ROW[:4], 2)["output"]) == 3
    assert wide.graph.digest != opened("mlp", options={"width": 4, "seed": 6}).graph.digest
    assert wide.graph.digest == opened("mlp", options={"width": 4, "seed": 5}).graph.digest


def test_ones_own_reading_and_writing(own_models: Any, ask: Any) -> None:
    engine = opened("digits")
    engine.verify()
    pixels = np.random.default_rng(0).normal(size=(8, 8)).tolist()
    expected = own_models.digits().module(torch.tensor(pixels)[None, None]).argmax()
    assert ask(engine, {"pixels": pixels}, 2, 4) == {"digit": int(expected)}
    engine.load(engine.graph.whole)
    for body in (b"{", b"{}", b'{"pixels": [1]}'):
        with pytest.raises(InvalidInputError, match="the input cannot be read"):
            engine.forward(engine.graph.whole, (Row(),), pack_body(JSON, body))


def test_rows_of_other_lengths_where_the_model_takes_them(ask: Any) -> None:
    engine = opened("whole_numbers")
    assert ask(engine, [1, 2], 2)["output"] == ask(engine, [1, 2, 0], 1)["output"][:2]
    engine.load(engine.graph.whole)
    with pytest.raises(InvalidInputError, match="one row has"):
        engine.forward(engine.graph.whole, (Row(),), pack_body(JSON, b"[[[1]]]"))


def test_inputs_of_whole_numbers(own_models: Any, ask: Any) -> None:
    engine = opened("whole_numbers")
    engine.verify()
    expected = own_models.whole_numbers().module(torch.tensor([[1, 2, 3, 4, 8]]))[0]
    assert ask(engine, [1, 2, 3, 4, 8], 1, 2)["output"] == expected.double().tolist()


def test_weights_come_from_a_folder(own_models: Any, tmp_path: Path, ask: Any) -> None:
    trained = own_models.mlp(seed=7)
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    engine = opened("mlp", path=str(tmp_path))
    engine.verify()
    expected = trained.eval()(torch.tensor([ROW]))[0].double().tolist()
    assert ask(engine, ROW, 2, 5) == {"output": expected}
    engine.load(UnitRange(5, 7))
    assert engine.loaded_bytes() == (8 * 3 + 3) * 4
    del state["4.bias"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"the tensor 4\.bias is missing"):
        opened("mlp", path=str(tmp_path)).load(UnitRange(5, 6))


def test_with_a_folder_the_factory_allocates_no_weights(
    own_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors.torch.save_file(own_models.mlp().state_dict() | {
        "3.weight": torch.ones(8, 8)}, tmp_path / "model.safetensors")  # fmt: skip
    hollow: list[bool] = []
    factory = own_models.mlp

    def watched() -> nn.Sequential:
        made: nn.Sequential = factory()
        hollow.extend(weight.is_meta for weight in made.parameters())
        return made

    monkeypatch.setattr(own_models, "mlp", watched)
    opened("mlp", path=str(tmp_path))
    assert hollow == [True] * 7
    assert not nn.Linear(2, 2).weight.is_meta


def test_dtype_of_ones_own_model(ask: Any) -> None:
    engine = opened("mlp", dtype="bfloat16")
    engine.verify()
    assert engine.graph.weight_bytes(UnitRange(5, 6)) == (8 * 3 + 3) * 2
    assert len(ask(engine, ROW, 3)["output"]) == 3


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [(b"[1, 2]", JSON, r"shape \(2,\); one row has \(8,\)"), (b"text", "text/plain", "not read"),
     (b'["a"]', JSON, "lists of numbers"), (b"[]", JSON, "lists of numbers"),
     (b"", NPY, "cannot be read"), (b"[[[1]]]", JSON, "shape")],
)  # fmt: skip
def test_bad_inputs_are_refused_in_words(body: bytes, kind: str, reason: str) -> None:
    engine = opened("mlp")
    engine.load(engine.graph.whole)
    with pytest.raises(InvalidInputError, match=reason):
        engine.forward(engine.graph.whole, (Row(),), pack_body(kind, body))


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (None, "is None; give package.module:function"),
        ("own_models", "give package.module:function"),
        ("no_such_module:f", "no_such_module cannot be imported"),
        ("own_models:gone", "own_models has no function gone"),
        ("own_models:not_a_function", "has no function"),
        ("own_models:broken", "raised RuntimeError: no weights today"),
        ("sys:exit", "raised SystemExit"),
        ("own_models:no_model", "returned int; return an nn.Sequential or an OwnModel"),
        ("own_models:empty", "a model without children"),
        ("own_models:no_sample", "return an OwnModel with a sample"),
        ("own_models:wrong_sample", r"the sample has shape \(4,\)"),
    ],
)
def test_wrong_factories_are_named(factory: str | None, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as raised:
        TorchFactory().open(ModelSpec(tier="sequential", factory=factory))
    assert "model.factory" in str(raised.value)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.factory own_models:mlp raised TypeError"):
        opened("mlp", options={"depth": 3})


@pytest.mark.parametrize(
    ("factory", "reason"),
    [("two_tensors", "a second tensor would cross"), ("same_twice", "not called once")],
)
def test_models_that_are_no_chain_are_refused(factory: str, reason: str) -> None:
    with pytest.raises(SplitError, match=reason):
        opened(factory)


@pytest.mark.parametrize("large", [False, True], ids=["whole", "too large to build whole"])
def test_chance_is_found(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    if large:
        monkeypatch.setattr(sequential, "_WHOLE_MAX", 0)
    with pytest.raises(SplitError):
        opened("noisy").verify()


def test_large_models_are_verified_unit_by_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "_WHOLE_MAX", 0)
    engine = opened("mlp")
    engine.load(UnitRange(2, 5))
    held = engine.loaded_bytes()
    engine.verify()
    assert engine.loaded_bytes() == held


def test_a_factory_that_makes_other_weights_each_time_has_another_digest() -> None:
    assert opened("changing").graph.digest != opened("changing").graph.digest


def test_json_answers_are_plain(own_models: Any, ask: Any) -> None:
    assert json.dumps(ask(opened("digits"), {"pixels": [[0] * 8] * 8})) in {
        json.dumps({"digit": digit}) for digit in range(10)
    }
