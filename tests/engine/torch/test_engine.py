"""What an engine holds, what it reads for it, how it describes its model, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.activation import JSON, Row, Tensor, pack_body, unpack_body
from dsi_mqtt.core.model import ModelSpec, Tie, UnitRange
from dsi_mqtt.engine.torch import TorchEngine, TorchFactory
from dsi_mqtt.engine.torch.checkpoint import open_checkpoint
from dsi_mqtt.engine.weights import FolderSource, Weight
from dsi_mqtt.errors import (
    CheckpointError,
    ConfigError,
    InvalidInputError,
    ModelFailedError,
    WireError,
)
from tests.thoroughness import examples


class SpySource:
    """A folder whose reads are written down."""

    def __init__(self, folder: Path) -> None:
        self._folder = FolderSource(folder)
        self.read: list[str] = []

    @property
    def weights(self) -> Mapping[str, Weight]:
        return self._folder.weights

    def read_into(self, name: str, buffer: memoryview) -> None:
        self.read.append(name)
        self._folder.read_into(name, buffer)

    def digest(self) -> str:
        return self._folder.digest()


def opened(folder: Path, **spec: Any) -> TorchEngine:
    return TorchFactory().open(ModelSpec(path=str(folder), **spec))


def test_only_tensors_of_owned_units_are_read(checkpoint: Any) -> None:
    folder = checkpoint("bert")
    source = SpySource(folder)
    engine = open_checkpoint(ModelSpec(path=str(folder)), source)
    assert source.read == []
    engine.load(UnitRange(2, 4))
    stored = source.weights.keys()
    layers = ("encoder.layer.1.", "encoder.layer.2.")
    assert sorted(source.read) == sorted(name for name in stored if name.startswith(layers))
    source.read.clear()
    engine.load(UnitRange(1, 5))
    assert not [name for name in source.read if name.startswith(layers)]
    assert {name for name in source.read if name.startswith("pooler.")}
    assert not [name for name in source.read if name.startswith("embeddings.")]


def test_weights_are_freed_and_counted(checkpoint: Any) -> None:
    engine = opened(checkpoint("bert"))
    graph = engine.graph
    engine.load(UnitRange(0, 3))
    assert engine.loaded_bytes() == graph.weight_bytes(UnitRange(0, 3))
    engine.load(UnitRange(2, 5))
    assert engine.loaded_bytes() == graph.weight_bytes(graph.whole)
    engine.drop(UnitRange(0, 2))
    assert engine.loaded_bytes() == graph.weight_bytes(UnitRange(2, 5))
    engine.drop(graph.whole)
    assert engine.loaded_bytes() == 0


def test_tied_weights_are_shared_within_a_segment_and_counted_in_each(
    checkpoint: Any, ask: Any
) -> None:
    engine = opened(checkpoint("gpt2"))
    graph = engine.graph
    assert graph.ties == (Tie((0, 4), 99 * 32 * 4),)
    engine.load(UnitRange(4, 5))
    head = engine.loaded_bytes()
    assert head == graph.weight_bytes(UnitRange(4, 5)) > 99 * 32 * 4
    engine.load(UnitRange(0, 4))
    assert engine.loaded_bytes() == graph.weight_bytes(graph.whole)
    assert graph.weight_bytes(graph.whole) == sum(u.weight_bytes for u in graph.units) - 99 * 32 * 4
    engine.drop(UnitRange(0, 4))
    assert engine.loaded_bytes() == head
    assert ask(engine, [1, 2, 3], 4) == ask(engine, [1, 2, 3], 1)


def test_units_that_are_not_loaded_are_not_run(checkpoint: Any) -> None:
    engine = opened(checkpoint("bert"))
    engine.load(UnitRange(0, 2))
    with pytest.raises(ModelFailedError, match="units 0:3 are not loaded here"):
        engine.forward(UnitRange(0, 3), (Row(),), pack_body(JSON, b"[1]"))
    with pytest.raises(ModelFailedError, match="units 1:3 are not loaded here"):
        engine.warm_up(UnitRange(1, 3))


def test_minilm_as_the_planner_sees_it(minilm_engine: TorchEngine) -> None:
    graph = minilm_engine.graph
    assert len(graph.units) == 8
    mebibytes = [
        graph.weight_bytes(UnitRange(*units)) / 2**20 for units in ((0, 3), (3, 5), (5, 8))
    ]
    assert mebibytes == pytest.approx([59.0, 13.5, 14.1], abs=0.05)
    # Four projections of 384 x 384, two of 384 x 1536, and attention over 32 x 32 positions.
    products = 32 * (4 * 384 * 384 + 2 * 384 * 1536) + 2 * 32 * 32 * 384
    assert [unit.flops for unit in graph.units[1:7]] == [2.0 * products] * 6
    assert graph.boundary_bytes(3) == 32 * 384 * 4 + 32 + 2 * 8 + 1
    assert graph.units[7].output_bytes == 0
    assert graph.ties == ()


def test_boundary_bytes_are_those_that_cross(checkpoint: Any) -> None:
    for name, body in (("bert", [3] * 32), ("llama", [3] * 32)):
        engine = opened(checkpoint(name))
        engine.load(engine.graph.whole)
        for cut in (1, 3, 4):
            crossing = engine.forward(
                UnitRange(0, cut), (Row(),), pack_body(JSON, json.dumps(body).encode())
            )
            assert sum(item.nbytes for item in crossing) == engine.graph.boundary_bytes(cut)


def test_describing_reads_no_weights_and_half_precision_halves_them(checkpoint: Any) -> None:
    whole = opened(checkpoint("llama")).graph
    half = opened(checkpoint("llama"), dtype="bfloat16").graph
    assert [unit.weight_bytes for unit in half.units] == [u.weight_bytes // 2 for u in whole.units]
    assert half.digest == whole.digest


def test_the_digest_names_weights_and_configuration(checkpoint: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint("bert"), folder)
    before = opened(folder).graph.digest
    assert before == opened(checkpoint("bert")).graph.digest
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = opened(folder).graph.digest
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    assert len({before, changed, opened(folder).graph.digest}) == 3


@pytest.mark.parametrize("name", ["bert", "swin", "gpt2", "resnet"])
def test_warm_up_runs_any_segment(checkpoint: Any, name: str) -> None:
    engine = opened(checkpoint(name))
    last = len(engine.graph.units)
    for units in (UnitRange(0, 1), UnitRange(1, 3), UnitRange(last - 1, last)):
        engine.load(units)
        assert engine.warm_up(units) > 0


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    state = safetensors.torch.load(file.read_bytes())
    change(state)
    safetensors.torch.save_file(state, file)


@pytest.fixture
def bert(checkpoint: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "bert"
    shutil.copytree(checkpoint("bert"), folder)
    return folder


LOST = "encoder.layer.1.output.dense.weight"


def test_a_missing_tensor_is_named_by_the_segment_that_needs_it(bert: Path) -> None:
    changed(bert, lambda state: state.pop(LOST))
    engine = opened(bert)
    engine.load(UnitRange(3, 5))
    held = engine.loaded_bytes()
    with pytest.raises(CheckpointError, match=f"{bert}: the tensor {LOST} is missing"):
        engine.load(UnitRange(1, 3))
    assert engine.loaded_bytes() == held
    with pytest.raises(ModelFailedError, match="not loaded"):
        engine.warm_up(UnitRange(1, 3))


def test_a_tensor_of_another_shape_is_named(bert: Path) -> None:
    changed(bert, lambda state: state.update({LOST: torch.zeros(3, 4)}))
    with pytest.raises(CheckpointError, match=rf"{LOST} has shape \(3, 4\)"):
        opened(bert).load(UnitRange(0, 3))


def test_experts_that_do_not_fit_are_named(checkpoint: Any, tmp_path: Path) -> None:
    folder = tmp_path / "mixtral"
    shutil.copytree(checkpoint("mixtral"), folder)
    state = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    expert = next(name for name in state if ".experts.1.w1" in name and ".layers.0." in name)
    changed(folder, lambda stored: stored.update({expert: torch.zeros(3, 4)}))
    engine = opened(folder)
    with pytest.raises(CheckpointError, match=r"layers\.0.*experts.*cannot be made of the stored"):
        engine.load(UnitRange(1, 2))
    engine.load(UnitRange(2, 3))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "config.json is missing"),
        ("{", "config.json is not readable JSON"),
        ("[]", "model_type None"),
        ('{"model_type": "no-such-model"}', "model_type 'no-such-model' is not one"),
        ('{"model_type": "bert"}', r"architectures is \[\]"),
        ('{"model_type": "bert", "architectures": ["MyBert"]}', r"architectures is \['MyBert'\]"),
        ('{"model_type": "bert", "architectures": ["BertConfig"]}', "one model class"),
        ('{"model_type": "bert", "hidden_size": "wide"}', "not a valid bert configuration"),
        (
            '{"model_type": "bert", "quantization_config": {"quant_method": "fp8"}}',
            "quantized checkpoints are not supported",
        ),
    ],
)
def test_wrong_configurations_are_named(bert: Path, text: str | None, reason: str) -> None:
    file = bert / "config.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(CheckpointError, match=reason) as raised:
        opened(bert)
    assert "config.json" in str(raised.value)


def test_a_path_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"model\.path is missing"):
        TorchFactory().open(ModelSpec())


def test_code_in_a_folder_is_never_run(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}}
    (bert / "config.json").write_text(json.dumps(config))
    (bert / "evil.py").write_text(f"open({str(bert / 'ran')!r}, 'w')")
    engine = opened(bert)
    engine.load(engine.graph.whole)
    engine.warm_up(engine.graph.whole)
    assert not (bert / "ran").exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.export_state("s", UnitRange(0, 1), 0, 1),
        lambda engine: engine.import_state("s", UnitRange(0, 1), 0, 1, b""),
        lambda engine: engine.forward(engine.graph.whole, (Row("s"),), pack_body(JSON, b'"a"')),
    ],
)
def test_one_pass_models_keep_no_sessions(
    minilm_engine: TorchEngine, call: Callable[[TorchEngine], object]
) -> None:
    with pytest.raises(ModelFailedError, match=r"session s: .*one pass"):
        call(minilm_engine)


def activation(engine: TorchEngine, cut: int) -> dict[str, Tensor]:
    body = pack_body(JSON, b'["Two roads", "diverged in a yellow wood"]')
    return {item.name: item for item in engine.forward(UnitRange(0, cut), (Row(),), body)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_states": None}, "lacks hidden_states"),
        ({"attention_mask": None}, "lacks attention_mask"),
        ({"batched": None}, "lacks batched"),
        ({"hidden_states": Tensor("hidden_states", "float32", (2, 3, 384), bytes(9216))}, "expect"),
        ({"hidden_states": Tensor("hidden_states", "float16", (1,), bytes(2))}, "expect"),
        ({"hidden_states": Tensor("hidden_states", "float32", (2, 8), bytes(3))}, "3 bytes"),
        ({"more": Tensor("more", "float32", (), bytes(4))}, "a tensor more that nothing here"),
        ({"shape.x": Tensor("shape.x", "int64", (1,), bytes(8))}, r"the shape \[0\] of x"),
        ({"order": Tensor("order", "int64", (2,), bytes(16))}, r"the order \[0, 0\]"),
    ],
)
def test_activations_that_do_not_fit_are_refused(
    minilm_engine: TorchEngine, change: dict[str, Tensor | None], reason: str
) -> None:
    tensors = activation(minilm_engine, 3) | change
    given_tensors = tuple(tensor for tensor in tensors.values() if tensor is not None)
    with pytest.raises(WireError, match=reason):
        minilm_engine.forward(UnitRange(3, 5), (Row(),), given_tensors)


def test_the_prelude_takes_no_more_rows_than_it_may(minilm_engine: TorchEngine) -> None:
    body = pack_body(JSON, b'["Two roads", "diverged in a yellow wood"]')
    with pytest.raises(InvalidInputError, match=r"2 rows.* 1 at once \(input.batch_max\)"):
        minilm_engine.forward(UnitRange(0, 1), (Row(),), body, batch_max=1)
    assert minilm_engine.forward(UnitRange(0, 1), (Row(),), body, batch_max=2)


def test_a_result_that_is_not_a_number_is_no_answer(bert: Path) -> None:
    changed(bert, lambda state: state[LOST].fill_(torch.nan))
    engine = opened(bert)
    engine.load(engine.graph.whole)
    with pytest.raises(ModelFailedError, match="NaN or infinity"):
        engine.forward(engine.graph.whole, (Row(),), pack_body(JSON, b"[1, 2]"))


@settings(max_examples=examples(30))
@given(
    texts=st.lists(st.text(min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=3),
    cuts=st.sets(st.integers(1, 7), max_size=3),
)
def test_any_texts_over_any_cuts_answer_as_the_whole(
    minilm_engine: TorchEngine, texts: list[str], cuts: set[int]
) -> None:
    def answer(*points: int) -> bytes:
        tensors = pack_body(JSON, json.dumps(texts).encode())
        starts = (0, *points)
        for units in map(UnitRange, starts, (*points, 8)):
            tensors = minilm_engine.forward(units, (Row(),), tensors)
        return unpack_body(tensors)[1]

    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        return
    assert answer(*sorted(cuts)) == answer()
