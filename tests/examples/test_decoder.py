"""The shipped decoder: what its page promises of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.torch import TorchFactory
from examples.decoder import checkpoint, score, text
from examples.decoder.checkpoint import MODEL, Decoder
from examples.decoder.tokenizer import END, encode, train_tokenizer
from examples.decoder.training import Recipe

PAGE = (MODEL.parent / "README.md").read_text("utf-8")
TRAINING, HELD_OUT = text.split(text.read_pages())

PROMPT = "# Introduction\n"
# What follows it, the likeliest token each time.
CONTINUATION = (
    "The sqlite3_exec() interface is used to implement the sqlite3_result_text() "
    "interface. The sqlite3_result_text() interface is used to create a new "
    "sqlite3_result_text() interface. The sqlite3_result_text() interface is used to "
    "create a"
)


@given(st.text())
@example("sqlite3_step() ≠ Füße\n\n\t  …\x00 \U0001f600 ")
@example(f"a {END} b")
def test_any_text_comes_back_from_its_tokens(decoder: Decoder, some: str) -> None:
    assert decoder.tokenizer.decode(decoder.tokenizer(some)["input_ids"]) == some


def test_it_is_an_ordinary_checkpoint(decoder: Decoder) -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(MODEL, local_files_only=True)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.dtype == torch.float32
    assert model.config.max_position_embeddings == tokenizer.model_max_length == Recipe().context
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == decoder.end
    assert tokenizer("the database")["input_ids"] == decoder.tokenizer("the database")["input_ids"]
    weights = decoder.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_it_is_small(decoder: Decoder) -> None:
    assert sum(weight.numel() for weight in decoder.model.parameters()) <= 4_000_000
    assert checkpoint.size(MODEL) + text.FILE.stat().st_size <= 8_000_000


def test_the_engine_sees_its_layers_as_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graph = TorchFactory().open(ModelSpec(path=str(MODEL))).graph
    assert len(graph.units) == Recipe().layers + 2


def test_its_tokenizer_is_the_one_that_the_text_gives(decoder: Decoder) -> None:
    recipe = Recipe()
    again = train_tokenizer(TRAINING, recipe.vocabulary, recipe.context)
    assert again.get_vocab() == decoder.tokenizer.get_vocab()
    some = HELD_OUT[:5]
    assert torch.equal(encode(again, some), encode(decoder.tokenizer, some))


def test_a_chat_s_question_is_a_heading(decoder: Decoder) -> None:
    chat = [
        {"role": "user", "content": " Locks "},
        {"role": "assistant", "content": "They lock."},
        {"role": "user", "content": "Keys"},
    ]
    written = decoder.tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    assert written == f"{END}# Locks\nThey lock.{END}# Keys\n"


def test_what_it_writes_is_always_the_same(decoder: Decoder) -> None:
    tokens = score.greedy(decoder, PROMPT, 64)
    assert decoder.tokenizer.decode(tokens) == CONTINUATION
    assert len(tokens) == 64
    assert len(set(tokens)) >= 20


def test_it_writes_words_of_the_text(decoder: Decoder) -> None:
    samples = [
        sample
        for seed, prompt in enumerate(score.PROMPTS)
        for sample in score.sample(decoder, prompt, seed, 4, 48)
    ]
    many, known = score.known_share(samples, text.vocabulary(TRAINING + HELD_OUT))
    assert many > 800
    assert known >= 0.95


def test_it_predicts_held_out_text_better_than_the_ngram_model(decoder: Decoder) -> None:
    own = score.bits_per_byte(decoder, HELD_OUT)
    ngram = score.ngram_bits_per_byte(TRAINING, HELD_OUT)
    assert own < ngram
    assert f"{own:.2f}" in figures("bits per held-out byte")
    assert f"{ngram:.2f}" in figures("an order-5 n-gram model")


def figures(name: str) -> list[str]:
    """Numbers in the page's line that begins so, rounded to two places."""
    (line,) = re.findall(rf"^.*{re.escape(name)} .*$", PAGE.split("## Figures")[1], re.MULTILINE)
    return [f"{float(number):.2f}" for number in re.findall(r"\d+\.\d+", line)]


def test_every_held_out_token_is_scored_once(decoder: Decoder) -> None:
    tokens = encode(decoder.tokenizer, HELD_OUT[:6])
    for context in (7, 8, 64, 10_000):
        windows = list(score._windows(tokens, context))
        assert sum(new for _, new in windows) == len(tokens) - 1
        scored = torch.cat([window[-new:] for window, new in windows])
        assert torch.equal(scored, tokens[1:])
        assert all(len(window) <= context + 1 for window, _ in windows)
        assert all(len(window) - new > context // 2 for window, new in windows[1:])


@pytest.mark.parametrize(
    ("ended", "expected"), [(True, ["base", "is", "lock"]), (False, ["base", "is"])]
)
def test_a_word_that_the_limit_cut_off_does_not_count(ended: bool, expected: list[str]) -> None:
    sample = score.Sample("The data base"[:-4], "base is lock", ended)
    assert sample.words == expected
