"""What a chain of segments generates against `generate` of transformers, by kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AttentionMaskInterface

from dsi_mqtt.core.activation import Row
from dsi_mqtt.engine.torch.generation import POSITIONS, Manner
from dsi_mqtt.engine.torch.ragged import RAGGED, ragged_mask
from dsi_mqtt.engine.torch.sessions import Sessions
from tests.engine.torch.generation.causal import KINDS, Chain, Told

TOLERANCE = 1e-4
# By the model's own attention, row by row.
ALONE = ("falcon", "bloom")
WINDOWED = ("mistral", "gemma2", "gemma3")


def answer_together(segments: Chain, told: list[Told], steps: int) -> None:
    """Prompts in pieces, then all sessions in each step, fed with what transformers said."""
    try:
        for session, one in enumerate(told):
            assert_same(one, 0, segments.prefill(str(session), one.prompt))
        for step in range(1, steps):
            rows = [Row(str(at), len(one.prompt) + step - 1) for at, one in enumerate(told)]
            logits = segments.logits(rows, [one.tokens[step - 1 : step] for one in told])
            for one, made in zip(told, logits, strict=True):
                assert_same(one, step, made)
    finally:
        segments.close(*map(str, range(len(told))))


def assert_same(told: Told, step: int, logits: torch.Tensor) -> None:
    assert (logits - told.logits[step]).abs().max() < TOLERANCE
    assert int(logits.argmax()) == told.tokens[step]


@pytest.mark.parametrize("name", KINDS)
def test_eight_sessions_of_different_lengths(name: str, told: Any, chain: Any) -> None:
    segments, asked = chain(name), told(name)[0]
    assert all(engine._manner.ragged == (name not in ALONE) for engine, _ in segments.parts)
    assert len({len(one.prompt) for one in asked}) == 8
    answer_together(segments, asked, len(asked[0].tokens))


@pytest.mark.parametrize("name", KINDS)
def test_one_session_that_hears_itself(name: str, told: Any, chain: Any) -> None:
    segments, one = chain(name), told(name)[1]
    drawn = segments.step([Row("s", 0, len(one.prompt))], [one.prompt])
    while len(drawn) < len(one.tokens):
        row = Row("s", len(one.prompt) + len(drawn) - 1)
        drawn += segments.step([row], [drawn[-1:]])
    segments.close("s")
    assert drawn == one.tokens


def test_segments_that_hold_nothing_else(folder: Any, told: Any) -> None:
    segments, asked = Chain(folder("llama"), 2, 3, apart=True), told("llama")[0]
    held = [engine.loaded_bytes() for engine, _ in segments.parts]
    assert held == [engine.graph.weight_bytes(units) for engine, units in segments.parts]
    answer_together(segments, asked, 3)


@pytest.mark.parametrize("name", KINDS)
def test_the_answers_to_compare_with_are_lively(name: str, told: Any) -> None:
    """Many different tokens, none chosen by less than two machines may differ."""
    together, alone = told(name)
    for one in (*together, alone):
        best = one.logits.topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > TOLERANCE
    assert len(alone.tokens) == 64
    assert len(set(alone.tokens)) >= 20


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_positions_shifted_by_one_are_noticed(
    name: str, told: Any, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When decoding; all of a session shifted alike is the same to rotary positions."""
    right = Manner.inputs

    def shifted(self: Any, ids: Any, rows: Any, cache: Any) -> Any:
        inputs = right(self, ids, rows, cache)
        return inputs | {POSITIONS: inputs[POSITIONS] + (ids.shape[1] == 1)}

    monkeypatch.setattr(Manner, "inputs", shifted)
    with pytest.raises(AssertionError):
        answer_together(chain(name), told(name)[0][:4], 3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral"])
def test_swapped_sessions_are_noticed(
    name: str, told: Any, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Sessions.open

    def swapped(self: Any, rows: Any, units: Any) -> Any:
        opened = right(self, rows, units)
        return {layer: [*stores[1:], stores[0]] for layer, stores in opened.items()}

    monkeypatch.setattr(Sessions, "open", swapped)
    with pytest.raises((AssertionError, RuntimeError)):
        answer_together(chain(name), told(name)[0][2:4], 3)


@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize("wrong", [15, 17])
def test_a_window_off_by_one_is_noticed(
    name: str, wrong: int, told: Any, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def narrow_or_wide(*sizes: Any, mask_function: Any, **rest: Any) -> Any:
        if rest.get("local_size") is not None:

            def mask_function(rows: Any, heads: Any, queries: Any, keys: Any) -> Any:
                return (keys <= queries) & (keys > queries - wrong)

        return ragged_mask(*sizes, mask_function=mask_function, **rest)

    monkeypatch.setitem(AttentionMaskInterface._global_mapping, RAGGED, narrow_or_wide)
    asked = [one for one in told(name)[0] if 14 < len(one.prompt) < 100]
    with pytest.raises(AssertionError):
        answer_together(chain(name), asked, 3)
