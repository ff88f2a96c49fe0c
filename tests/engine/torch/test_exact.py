"""Segments against the whole, as plain transformers computes it: to the last bit."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils import _pytree as pytree

from dsi_mqtt.core.activation import Tensor, Tensors
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.torch.build import build_hollow, model_class, read_config
from dsi_mqtt.engine.torch.crossing import pack, unpack
from dsi_mqtt.engine.torch.keys import read_recipes
from dsi_mqtt.engine.torch.layer import split_layer
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.engine.torch.split import SplitModel
from dsi_mqtt.engine.torch.structure import Reference
from dsi_mqtt.engine.weights import FolderSource
from tests.engine.torch.references import in_memory_of_its_own

VISION = {"vit": 32, "dinov2": 32, "swin": 64, "resnet": 64}
TEXT = ("bert", "bert-classifier", "gpt2", "llama", "mixtral")


def text_request(rows: int) -> Request:
    """Rows of different lengths, padded to the longest."""
    random = torch.Generator().manual_seed(rows)
    lengths = torch.tensor([12, 7, 3][:rows])
    ids = torch.randint(2, 99, (rows, 12), generator=random)
    return Request(
        {"input_ids": ids, "attention_mask": (torch.arange(12) < lengths[:, None]).long()}, True
    )


def image_request(rows: int, side: int, dtype: torch.dtype = torch.float32) -> Request:
    random = torch.Generator().manual_seed(rows)
    return Request(
        {"pixel_values": torch.randn(rows, 3, side, side, generator=random).to(dtype)}, True
    )


def request_for(name: str, rows: int) -> Request:
    return image_request(rows, VISION[name]) if name in VISION else text_request(rows)


def opened(folder: Path, request: Request, dtype: torch.dtype = torch.float32) -> SplitModel:
    config = read_config(folder)
    cls = model_class(config, folder)
    known = frozenset({"attention_mask"} & request.inputs.keys())
    one = {name: value[:1] for name, value in request.inputs.items()}
    return split_layer(
        cls, config, dtype, FolderSource(folder), Reference(one, known), origin=str(folder)
    )


def chain(model: SplitModel, cuts: tuple[int, ...], request: Request) -> Any:
    """The model's output over segments that each hold their own units alone."""
    stream, carried = None, model.structure.carried
    dtypes = {name: value.dtype for name, value in request.inputs.items()}
    for start, stop in pairwise((0, *cuts, len(model.structure.needs))):
        units = UnitRange(start, stop)
        model.load(units)
        result = model.run(units, request.inputs, stream)
        model.drop(units)
        if stop <= len(model.structure.blocks) + 1:
            stream, request = unpack(copied(pack(result, request, carried)), carried, dtypes)
    return result


def copied(tensors: Tensors) -> Tensors:
    return tuple(Tensor(t.name, t.dtype, t.shape, memoryview(bytes(t.data))) for t in tensors)


def whole(folder: Path, inputs: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder)
    cls = getattr(transformers, config.architectures[0])
    model = in_memory_of_its_own(cls.from_pretrained(folder, dtype=dtype).eval())
    takes_cache = "use_cache" in inspect.signature(cls.forward).parameters
    with torch.inference_mode():
        return model(**inputs, **({"use_cache": False} if takes_cache else {}))


def assert_equal(result: Any, expected: Any) -> None:
    ours, theirs = (
        [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        for value in (result, expected)
    )
    assert len(ours) == len(theirs) > 0
    for left, right in zip(ours, theirs, strict=True):
        assert right.isfinite().all()
        assert torch.equal(left, right)


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("name", [*TEXT, *VISION])
def test_three_segments_equal_the_whole(checkpoint: Any, name: str, sharded: bool) -> None:
    folder = checkpoint(name, sharded=sharded)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == sharded
    request = request_for(name, 3)
    model = opened(folder, request)
    blocks = len(model.structure.blocks)
    assert_equal(chain(model, (1, blocks), request), whole(folder, request.inputs))


@pytest.mark.parametrize("name", [*TEXT, *VISION])
def test_every_cut_equals_the_whole(checkpoint: Any, name: str) -> None:
    folder = checkpoint(name)
    request = request_for(name, 1)
    model = opened(folder, request)
    expected = whole(folder, request.inputs)
    last = len(model.structure.needs)
    for cut in range(1, last):
        assert_equal(chain(model, (cut,), request), expected)
    assert_equal(chain(model, tuple(range(1, last)), request), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["bert", "llama", "vit"])
def test_other_dtypes_equal_the_whole(checkpoint: Any, name: str, dtype: torch.dtype) -> None:
    folder = checkpoint(name)
    request = image_request(2, 32, dtype) if name == "vit" else text_request(2)
    model = opened(folder, request, dtype)
    assert_equal(chain(model, (1, 3), request), whole(folder, request.inputs, dtype))


def test_minilm_in_three_segments(minilm: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = ["A man is eating food.", "Two roads diverged in a yellow wood, and sorry I could not."]
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    request = Request(inputs, batched=True)
    model = opened(minilm, request)
    assert_equal(chain(model, (3, 5), request), whole(minilm, inputs))


def test_other_lengths_than_the_reference(checkpoint: Any) -> None:
    folder = checkpoint("llama")
    model = opened(folder, text_request(1))
    ids = torch.arange(2, 42)[None]
    request = Request({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, batched=False)
    for _ in range(2):  # the second pass skips blocks by what the first one learned
        assert_equal(chain(model, (2, 3), request), whole(folder, request.inputs))


def test_other_image_sizes_than_the_reference(checkpoint: Any) -> None:
    folder = checkpoint("resnet")
    model = opened(folder, image_request(1, 64))
    request = image_request(2, 96)
    assert_equal(chain(model, (2, 4), request), whole(folder, request.inputs))


def test_blocks_are_the_finest_units_whose_flow_is_a_chain(checkpoint: Any) -> None:
    resnet = opened(checkpoint("resnet"), image_request(1, 64)).structure
    assert resnet.blocks[:3] == tuple(f"resnet.encoder.stages.{at}" for at in
                                      ("0.layers.0", "0.layers.1", "1.layers.0"))  # fmt: skip
    swin = opened(checkpoint("swin"), image_request(1, 64)).structure
    assert len(swin.blocks) == 6
    downsample = "swin.encoder.layers.0.downsample.reduction.weight"
    assert [downsample in needs for needs in swin.needs] == [False, False, True] + [False] * 5


def test_buffers_equal_those_of_from_pretrained(checkpoint: Any) -> None:
    for name in ("bert", "llama", "swin"):
        folder = checkpoint(name)
        config = read_config(folder)
        hollow = build_hollow(model_class(config, folder), config, torch.float32)
        model = model_class(config, folder).from_pretrained(folder)
        theirs = dict(model.named_buffers())
        assert {key for key, _ in hollow.named_buffers()} == theirs.keys()
        for key, buffer in hollow.named_buffers():
            assert buffer.is_meta or torch.equal(buffer, theirs[key])


def test_a_base_models_checkpoint_fills_the_headed_one(checkpoint: Any, tmp_path: Path) -> None:
    """Stored without the base model's prefix and with tied weights once, as GPT-2 first was."""
    model = in_memory_of_its_own(transformers.GPT2LMHeadModel.from_pretrained(checkpoint("gpt2")))
    model.transformer.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"GPT2Model"', '"GPT2LMHeadModel"'))
    stored = FolderSource(tmp_path).weights
    assert "wte.weight" in stored
    assert not any("lm_head" in name or "transformer." in name for name in stored)
    request = text_request(2)
    ours = opened(tmp_path, request)
    assert_equal(chain(ours, (2,), request), whole(checkpoint("gpt2"), request.inputs))


@pytest.mark.parametrize("name", ["vit", "mixtral"])
def test_stored_names_that_are_no_module_names(checkpoint: Any, name: str) -> None:
    """These two kinds are stored under other names; the exact tests above read them right."""
    folder = checkpoint(name)
    config = read_config(folder)
    model = build_hollow(model_class(config, folder), config, torch.float32)
    stored = set(FolderSource(folder).weights)
    assert not stored <= model.state_dict().keys()
    recipes = read_recipes(model, stored)
    assert recipes.keys() >= dict(model.named_parameters()).keys()
    assert {key for recipe in recipes.values() for key, _ in recipe.sources} == stored
