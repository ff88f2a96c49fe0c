"""Texts in, answers out: embeddings, labels, next tokens; and what is refused, in words."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from dsi_mqtt.core.activation import JSON, NPY, OCTETS, TEXT, Row, pack_body
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.torch import TorchEngine, TorchFactory
from dsi_mqtt.errors import (
    CheckpointError,
    ConfigError,
    InvalidInputError,
    ModelFailedError,
    SplitError,
)

TEXTS = ["A man is eating food.", "A man eats something.", "The girl is playing the violin."]


def opened(folder: Path, **spec: Any) -> TorchEngine:
    return TorchFactory().open(ModelSpec(path=str(folder), **spec))


def loaded(folder: Path, **spec: Any) -> TorchEngine:
    engine = opened(folder, **spec)
    engine.load(engine.graph.whole)
    return engine


def refused(engine: TorchEngine, body: object, kind: str = JSON) -> str:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidInputError) as raised:
        engine.forward(engine.graph.whole, (Row(),), pack_body(kind, raw))
    return str(raised.value)


def npy(value: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


def mean_pooled(folder: Path, texts: list[str]) -> torch.Tensor:
    """Embeddings as the model card computes them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**encoded).last_hidden_state
        mask = encoded["attention_mask"].unsqueeze(-1).float()
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, p=2, dim=1)


def test_minilm_embeds_a_text_exactly(minilm: Path, ask: Any) -> None:
    answer = ask(opened(minilm), TEXTS[0], 3, 5)
    assert list(answer) == ["embedding"]
    expected = mean_pooled(minilm, TEXTS[:1])[0]
    assert torch.equal(torch.tensor(answer["embedding"]), expected)
    assert answer["embedding"] == expected.double().tolist()


def test_minilm_embeds_a_list_of_texts_exactly(minilm: Path, ask: Any) -> None:
    answer = ask(opened(minilm), TEXTS, 3, 5)
    told = transformers.AutoTokenizer.from_pretrained(minilm)(TEXTS)["input_ids"]
    assert answer.keys() == {"embeddings", "usage"}
    assert answer["usage"] == {"prompt_tokens": sum(map(len, told))}
    assert torch.equal(torch.tensor(answer["embeddings"]), mean_pooled(minilm, TEXTS))
    alike = np.array(answer["embeddings"]) @ np.array(answer["embeddings"][0])
    assert alike[1] > 0.8
    assert alike[2] < 0.2


def test_the_same_text_in_every_form(minilm: Path, ask: Any) -> None:
    engine = opened(minilm)
    first = ask(engine, TEXTS[0])
    assert ask(engine, {"text": TEXTS[0]}) == first
    assert ask(engine, TEXTS[0].encode(), kind=f"{TEXT}; charset=utf-8") == first
    assert ask(engine, {"text": TEXTS}, 4) == ask(engine, TEXTS, 2)
    ids = transformers.AutoTokenizer.from_pretrained(minilm)(TEXTS[0])["input_ids"]
    for kind in (NPY, OCTETS):
        assert ask(engine, npy(np.array(ids)), kind=kind) == first
    twice = ask(engine, npy(np.array([ids, ids])), kind=NPY)
    assert twice["usage"] == {"prompt_tokens": 2 * len(ids)}


def test_texts_beyond_the_maximum_are_cut_off_where_the_tokenizer_says_so(
    minilm: Path, tmp_path: Path, ask: Any
) -> None:
    text = "road " * 400
    expected = mean_pooled(minilm, [text])[0]
    assert torch.equal(torch.tensor(ask(opened(minilm), text)["embedding"]), expected)
    folder = tmp_path / "strict"
    shutil.copytree(minilm, folder)
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"truncation": None}))
    assert refused(loaded(folder), text) == "the text has 402 tokens; this model reads 256 at most"


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"{", JSON, "not valid JSON"),
        (b"[" * 100_000, JSON, "not valid JSON"),
        (b"\xff\xfe", TEXT, "not UTF-8"),
        (b"\xff\xd8\xff", "image/jpeg", "reads text, not 'image/jpeg'"),
        (3, JSON, "expected a text"),
        ([], JSON, "expected a text"),
        (["a", 1], JSON, "expected a text"),
        ({"texts": "a"}, JSON, "expected a text"),
        ([1, 2], JSON, "expected a text"),
        ("\ud800", JSON, "lone surrogate"),
        (npy(np.array([1.5])), NPY, "whole and from 0 to 30521"),
        (npy(np.array([30522])), NPY, "whole and from 0 to 30521"),
        (npy(np.array([[[1]]])), NPY, "shape (1, 1, 1)"),
        (npy(np.zeros(600, np.int64)), NPY, "600 tokens came"),
        (npy(np.array([1, 2]))[:-1], NPY, "not as long as its header"),
        (npy(np.array([None])), NPY, "holds object; send numbers"),
        (npy(np.array(["a"])), NPY, "send numbers"),
        (b"\x93NUMPY", NPY, "cannot be read"),
        (b"", NPY, "cannot be read"),
    ],
)
def test_bad_inputs_are_refused_in_words(
    minilm_engine: TorchEngine, body: Any, kind: str, reason: str
) -> None:
    assert reason in refused(minilm_engine, body, kind)


def test_an_array_that_claims_to_be_huge_costs_nothing(minilm_engine: TorchEngine) -> None:
    stream = io.BytesIO()
    told = {"descr": "<i8", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(stream, told)
    assert "not as long as its header" in refused(minilm_engine, stream.getvalue(), NPY)


def test_classes_of_texts(checkpoint: Any, ask: Any) -> None:
    folder = checkpoint("bert-classifier")
    engine = opened(folder)
    single = ask(engine, [5, 6, 7], 1, 3)
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        scores = model(torch.tensor([[5, 6, 7]])).logits.softmax(-1)[0]
    labels = single["labels"]
    assert [label["score"] for label in labels] == sorted(scores.double().tolist(), reverse=True)
    assert labels[0] == {
        "label": f"LABEL_{scores.argmax()}",
        "id": int(scores.argmax()),
        "score": float(scores.max()),
    }
    batch = ask(engine, [[5, 6, 7], [8]], 2)
    assert len(batch["results"]) == 2
    assert batch["results"][0]["labels"][0]["id"] == labels[0]["id"]
    assert len(ask(opened(folder, options={"top_k": 1}), [5])["labels"]) == 1


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_next_tokens_of_prompts_of_different_lengths(checkpoint: Any, ask: Any, name: str) -> None:
    folder = checkpoint(name)
    engine = opened(folder, options={"top_k": 99})
    prompts = [[3, 4, 5, 6, 7], [8, 9]]
    results = ask(engine, prompts, 2, 4)["results"]
    model = getattr(transformers, engine_class(folder)).from_pretrained(folder)
    for prompt, result in zip(prompts, results, strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        told = torch.zeros(99)
        for token in result["tokens"]:
            told[token["id"]] = token["probability"]
        assert torch.allclose(told, expected, atol=1e-6)
        assert result["tokens"][0]["id"] == int(expected.argmax())


def engine_class(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["architectures"][0])


def test_features_of_a_base_encoder_and_other_tasks(checkpoint: Any, ask: Any) -> None:
    folder = checkpoint("bert")
    features = ask(opened(folder), [5, 6, 7], 2)["features"]
    model = transformers.BertModel.from_pretrained(folder)
    with torch.inference_mode():
        hidden = model(torch.tensor([[5, 6, 7]])).last_hidden_state[0]
    assert torch.allclose(torch.tensor(features), hidden.mean(0), atol=1e-6)
    embedded = torch.tensor(ask(opened(folder, task="embedding"), [5, 6, 7])["embedding"])
    assert embedded.norm() == pytest.approx(1.0)
    raw = ask(opened(folder, task="tensor"), [5, 6, 7], 1)
    assert raw["shape"] == [3, 32]
    assert torch.equal(torch.tensor(raw["output"]), hidden)


@pytest.mark.parametrize(
    ("body", "reason"),
    [([], "token numbers"), ("text", "token numbers"), ([[1], "a"], "token numbers"),
     ([[[1]]], "list of token numbers"), ([-1], "from 0 to 98"), ([99], "from 0 to 98"),
     ([1] * 65, "65 tokens came; this model reads 64 at most"), ([True], "token numbers")],
)  # fmt: skip
def test_models_without_a_tokenizer_take_token_numbers(
    checkpoint: Any, body: object, reason: str
) -> None:
    assert reason in refused(loaded(checkpoint("bert")), body)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"task": "poetry"}, ConfigError, "model.task is 'poetry'"),
        ({"options": {"top": 3}}, ConfigError, "model.options has unknown top"),
        ({"options": {"top_k": 0}}, ConfigError, "model.options.top_k"),
        ({"tokenizer": "/nowhere"}, ConfigError, "model.tokenizer: /nowhere is not a folder"),
        ({"dtype": "int4"}, ConfigError, "model.dtype is 'int4'"),
    ],
)
def test_wrong_deployments_are_named(
    minilm: Path, changes: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        opened(minilm, **changes)


def test_a_tokenizer_from_elsewhere(checkpoint: Any, minilm: Path, ask: Any) -> None:
    engine = loaded(checkpoint("bert"), tokenizer=str(minilm))
    assert engine.graph.digest != opened(checkpoint("bert")).graph.digest
    with pytest.raises(ModelFailedError, match="gives token 7592, the model knows 99"):
        ask(engine, "hello")


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("tokenizer.json", "{", "the tokenizer cannot be loaded"),
        ("modules.json", "{", "modules.json is not readable JSON"),
        ("modules.json", '[{"type": "models.Dense"}]', "only Transformer, Pooling and Normalize"),
        ("1_Pooling/config.json", "{}", r"pooling \[\] is not supported"),
    ],
)
def test_damaged_task_files_are_named(
    minilm: Path, tmp_path: Path, file: str, text: str, reason: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(minilm, folder)
    (folder / file).write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        loaded(folder)


@pytest.mark.parametrize(("mode", "row"), [("cls_token", 0), ("max_tokens", None)])
def test_other_poolings(minilm: Path, tmp_path: Path, ask: Any, mode: str, row: int | None) -> None:
    folder = tmp_path / mode
    shutil.copytree(minilm, folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    (folder / "modules.json").write_text(
        json.dumps([{"type": "a.Transformer"}, {"type": "a.Pooling", "path": "1_Pooling"}])
    )
    embedding = torch.tensor(ask(opened(folder), TEXTS[0], 4)["embedding"])
    encoded = transformers.AutoTokenizer.from_pretrained(minilm)(TEXTS[0], return_tensors="pt")
    with torch.inference_mode():
        hidden = transformers.AutoModel.from_pretrained(minilm)(**encoded).last_hidden_state[0]
    assert torch.equal(embedding, hidden[0] if row == 0 else hidden.amax(0))


def test_models_of_sounds_are_refused(tmp_path: Path) -> None:
    config = transformers.Wav2Vec2Config(architectures=["Wav2Vec2Model"])
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(SplitError, match="takes input_values; only texts"):
        opened(tmp_path)
