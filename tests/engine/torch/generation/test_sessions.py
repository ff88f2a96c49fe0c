"""Sessions of an engine: cut back, stale, closed, moved, and what memory they take."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from dsi_mqtt.core.activation import JSON, Row, Tensor, pack_body
from dsi_mqtt.core.caches import copy_bytes_max
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.base import NOT_SAMPLED
from dsi_mqtt.engine.torch import GenerationEngine, ragged
from dsi_mqtt.errors import (
    InvalidInputError,
    ModelFailedError,
    SessionStaleError,
    WireError,
)
from tests.engine.torch.generation.causal import CONTEXT, GREEDY, Chain, beside, ids_of, opened

# Keys and values of one position of one block: 2 heads of 8, float32.
POSITION = 2 * 2 * 8 * 4
PROMPT = list(range(3, 43))


@pytest.fixture(scope="module")
def shared(folder: Any) -> GenerationEngine:
    engine = opened(folder("mistral"))
    engine.load(engine.graph.whole)
    return engine


@pytest.fixture
def engine(shared: GenerationEngine) -> GenerationEngine:
    """All units loaded, no sessions. Load what you drop."""
    return beside(shared)


def logits(engine: GenerationEngine, rows: list[Row], tokens: list[list[int]]) -> torch.Tensor:
    return engine.logits(engine.graph.whole, tuple(rows), ids_of(tokens))


def begin(engine: GenerationEngine, session: str, tokens: list[int]) -> torch.Tensor:
    return logits(engine, [Row(session, 0, len(tokens))], [tokens])[0]


def follow(engine: GenerationEngine, session: str, position: int, *tokens: int) -> torch.Tensor:
    return logits(engine, [Row(session, position, len(tokens))], [list(tokens)])[0]


def close_to(left: torch.Tensor, right: torch.Tensor) -> bool:
    return bool((left - right).abs().max() < 1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom"])
@pytest.mark.parametrize("piece", [1, 7, 39])
def test_a_prompt_in_pieces_is_the_prompt(name: str, piece: int, chain: Any) -> None:
    segments: Chain = chain(name)
    whole = segments.prefill("whole", PROMPT)
    assert close_to(segments.prefill("pieces", PROMPT, piece), whole)
    segments.close("whole", "pieces")


def test_several_tokens_of_several_sessions_at_once(engine: GenerationEngine) -> None:
    begin(engine, "a", PROMPT[:20])
    begin(engine, "b", PROMPT[:5])
    rows = [Row("a", 20, 4), Row("b", 5, 4)]
    together = logits(engine, rows, [PROMPT[20:24], PROMPT[5:9]])
    assert close_to(together[0], begin(engine, "c", PROMPT[:24]))
    assert close_to(together[1], begin(engine, "d", PROMPT[:9]))


def test_an_earlier_position_cuts_back(engine: GenerationEngine) -> None:
    """Also by more than a sliding window, whose keys are all still there."""
    begin(engine, "s", PROMPT)
    expected = follow(engine, "s", 40, 7)
    follow(engine, "s", 10, 400, 401, 402)
    with pytest.raises(SessionStaleError):
        follow(engine, "s", 40, 7)
    follow(engine, "s", 10, *PROMPT[10:])
    assert close_to(follow(engine, "s", 40, 7), expected)


def test_a_repeated_step_does_no_harm(engine: GenerationEngine) -> None:
    begin(engine, "s", PROMPT)
    first = follow(engine, "s", 40, 7)
    assert torch.equal(follow(engine, "s", 40, 7), first)


def test_position_zero_begins_anew(engine: GenerationEngine) -> None:
    begin(engine, "s", PROMPT)
    assert close_to(begin(engine, "s", [9, 8, 7]), begin(engine, "t", [9, 8, 7]))
    with pytest.raises(SessionStaleError) as raised:
        follow(engine, "s", 4, 1)
    assert raised.value.have == {"s": 3}


def test_a_session_that_is_behind_is_stale_and_nothing_is_computed(
    engine: GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(engine, "s", PROMPT)
    monkeypatch.setattr(GenerationEngine, "_pass", None)
    rows = [Row("s", 10), Row("t", 3), Row("u", 1)]
    with pytest.raises(SessionStaleError) as raised:
        logits(engine, rows, [[1], [1], [1]])
    assert raised.value.have == {"t": 0, "u": 0}
    monkeypatch.undo()
    follow(engine, "s", 40, 7)


def test_what_fails_half_way_is_not_held(
    engine: GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(engine, "s", PROMPT)
    expected = follow(engine, "s", 40, 7)
    calls = iter([False, True])
    right = ragged._attend

    def failing(*args: Any) -> torch.Tensor:
        if next(calls):
            raise RuntimeError("out of luck")
        return right(*args)

    monkeypatch.setattr(ragged, "_attend", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        follow(engine, "s", 20, 5, 5)
    monkeypatch.undo()
    with pytest.raises(SessionStaleError) as raised:
        follow(engine, "s", 21, 1)
    assert raised.value.have == {"s": 20}
    follow(engine, "s", 20, *PROMPT[20:])
    assert close_to(follow(engine, "s", 40, 7), expected)


def test_memory_grows_by_doubling_up_to_the_context(engine: GenerationEngine) -> None:
    taken = {}
    position = 0
    for count in (1, 63, 1, 63, 1, 256, 200):
        follow(engine, "s", position, *[5] * count)
        position += count
        taken[position] = engine.state_bytes("s") // (3 * POSITION)
    assert taken == {1: 64, 64: 64, 65: 128, 128: 128, 129: 256, 385: 512, 585: CONTEXT}


def test_a_step_copies_nothing_but_its_own(engine: GenerationEngine) -> None:
    begin(engine, "s", PROMPT)
    stores = engine._sessions._sessions["s"].stores
    before = {layer: store.keys.data_ptr() for layer, store in stores.items()}
    for position in range(40, 64):
        follow(engine, "s", position, 7)
    assert {layer: store.keys.data_ptr() for layer, store in stores.items()} == before


def test_the_graph_tells_what_a_position_takes(engine: GenerationEngine) -> None:
    assert [unit.state_bytes for unit in engine.graph.units] == [0, *[POSITION] * 3, 0]
    begin(engine, "s", PROMPT)
    assert engine.state_bytes("s") == 64 * engine.graph.state_bytes(engine.graph.whole)


def test_a_closed_session_leaves_nothing(engine: GenerationEngine) -> None:
    begin(engine, "s", PROMPT)
    engine.close("s")
    engine.close("never there")
    assert engine.state_bytes("s") == 0
    with pytest.raises(SessionStaleError):
        follow(engine, "s", 40, 7)


def test_dropped_units_free_their_part_of_all_sessions(engine: GenerationEngine) -> None:
    for session in ("s", "t"):
        begin(engine, session, PROMPT)
    try:
        engine.drop(UnitRange(2, 4))
        assert engine.state_bytes("s") == engine.state_bytes("t") == 64 * POSITION
        stream = engine.forward(UnitRange(0, 2), (Row("s", 40),), ids_of([[7]]))
    finally:
        engine.load(UnitRange(2, 4))
    with pytest.raises(SessionStaleError) as raised:
        engine.forward(UnitRange(2, 5), (Row("s", 40),), stream, sampling=(GREEDY,))
    assert raised.value.have == {"s": 0}
    engine.drop(UnitRange(1, 2))
    engine.load(UnitRange(1, 2))
    assert engine.state_bytes("s") == 0


def test_a_segment_without_blocks_keeps_nothing_and_is_never_stale(
    engine: GenerationEngine,
) -> None:
    begin(engine, "s", PROMPT)
    expected = follow(engine, "s", 40, 7)
    row, prelude, head = (Row("s", 40),), UnitRange(0, 1), UnitRange(4, 5)
    ends = beside(engine)
    stream = ends.forward(prelude, row, ids_of([[7]]))
    stream = engine.forward(UnitRange(1, 4), row, stream)
    assert close_to(ends.logits(head, row, stream)[0], expected)
    assert ends.state_bytes("s") == 0


def move(
    source: GenerationEngine, target: GenerationEngine, units: UnitRange, first: int, last: int
) -> None:
    state = source.export_state("s", units, first, last)
    assert len(state) <= copy_bytes_max(source.graph, units, last - first)
    target.import_state("s", units, first, last, state)


def test_a_moved_session_continues_to_the_bit(engine: GenerationEngine, folder: Any) -> None:
    other = opened(folder("mistral"))
    other.load(other.graph.whole)
    begin(engine, "s", PROMPT)
    move(engine, other, engine.graph.whole, 0, 40)
    for position in range(40, 48):
        assert torch.equal(follow(other, "s", position, 7), follow(engine, "s", position, 7))


def test_some_units_and_some_positions_move(engine: GenerationEngine) -> None:
    other = beside(engine)
    begin(engine, "s", PROMPT)
    begin(other, "s", PROMPT[:30])
    for units in (UnitRange(0, 2), UnitRange(2, 5)):
        move(engine, other, units, 25, 40)
    assert torch.equal(follow(other, "s", 40, 7), follow(engine, "s", 40, 7))
    with pytest.raises(ModelFailedError, match="unit 1 holds 41 positions, not 0:99"):
        engine.export_state("s", UnitRange(0, 2), 0, 99)


def test_a_state_that_does_not_follow_is_stale(engine: GenerationEngine) -> None:
    begin(engine, "s", PROMPT)
    other = beside(engine)
    with pytest.raises(SessionStaleError) as raised:
        move(engine, other, engine.graph.whole, 10, 20)
    assert raised.value.have == {"s": 0}
    assert other.state_bytes("s") == 0


def test_a_state_that_comes_again_or_late_takes_nothing_away(engine: GenerationEngine) -> None:
    other = beside(engine)
    begin(engine, "s", PROMPT)
    whole = engine.graph.whole
    early, late = (engine.export_state("s", whole, *part) for part in ((0, 25), (25, 40)))
    for first, last, state in ((0, 25, early), (25, 40, late), (0, 25, memoryview(early))):
        other.import_state("s", whole, first, last, state)
    assert torch.equal(follow(other, "s", 40, 7), follow(engine, "s", 40, 7))


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("1@0", "7@0"): value for name, value in state.items()}


def lacking(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(state.items())[1:])


def shortened(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(iter(state))
    return state | {name: state[name][:, :, 1:].contiguous()}


def widened(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.repeat(1, 1, 1, 2) for name, value in state.items()}


def lengthened(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.repeat(1, 1, 50, 1) for name, value in state.items()}


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.half() for name, value in state.items()}


def strange(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state | {"else": torch.zeros(1)}


@pytest.mark.parametrize(
    "wrong", [renamed, lacking, shortened, widened, lengthened, halved, strange]
)
def test_a_state_of_another_shape_is_refused_whole(wrong: Any, engine: GenerationEngine) -> None:
    begin(engine, "s", PROMPT)
    state = load(engine.export_state("s", engine.graph.whole, 0, 40))
    other = beside(engine)
    with pytest.raises(WireError, match="session s: the state is not readable"):
        other.import_state("s", engine.graph.whole, 0, 40, save(wrong(state)))
    assert other.state_bytes("s") == 0


@pytest.mark.parametrize(
    ("units", "first", "last"),
    [(UnitRange(0, 2), 0, 40), (UnitRange(0, 5), 0, 39), (UnitRange(0, 5), 0, 41),
     (UnitRange(0, 5), 1, 40), (UnitRange(0, 5), 40, 80)],
)  # fmt: skip
def test_a_state_of_anything_else_than_is_told_is_refused(
    engine: GenerationEngine, units: UnitRange, first: int, last: int
) -> None:
    begin(engine, "s", PROMPT)
    other = beside(engine)
    state = engine.export_state("s", engine.graph.whole, 0, 40)
    with pytest.raises(WireError, match="session s: the state is not readable"):
        other.import_state("s", units, first, last, state)
    assert other.state_bytes("s") == 0


@pytest.mark.parametrize("blob", [b"", b"junk", pickle.dumps({"1@0.0.keys": 1})])
def test_damaged_states_are_refused(blob: bytes, engine: GenerationEngine) -> None:
    with pytest.raises(WireError, match="session s: the state is not readable"):
        engine.import_state("s", engine.graph.whole, 0, 40, blob)


def test_of_a_slice_that_is_not_sampled_no_logits_are_made(
    engine: GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = engine._model.module
    with monkeypatch.context() as patch:
        patch.setattr(model.lm_head, "forward", None)
        rows = (Row("s", 0, 40), Row("t", 0, 40))
        (made,) = engine.forward(
            engine.graph.whole, rows, ids_of([PROMPT, PROMPT]), sampling=(None, None)
        )
    assert np.frombuffer(made.data, "<i8").tolist() == [NOT_SAMPLED] * 2
    together = (Row("s", 40), Row("t", 40))
    (made,) = engine.forward(
        engine.graph.whole, together, ids_of([[7], [7]]), sampling=(GREEDY, None)
    )
    best = int(begin(engine, "u", [*PROMPT, 7]).argmax())
    assert np.frombuffer(made.data, "<i8").tolist() == [best, NOT_SAMPLED]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ((), "takes one number"),
        ((Row("a", 0, 2), Row("b", 0, 1)), "takes one number"),
        ((Row("a", 0, 0),), "takes one number"),
        ((Row("", 0, 2), Row("b", 0, 2)), "must have a session"),
        ((Row("a", 0, 2), Row("a", 2, 2)), "none has two rows"),
    ],
)
def test_rows_that_are_no_step_are_refused(
    rows: tuple[Row, ...], reason: str, engine: GenerationEngine
) -> None:
    with pytest.raises(WireError, match=reason):
        engine.forward(engine.graph.whole, rows, ids_of([[1, 2], [1, 2]]))


def test_a_step_must_be_what_its_rows_announce(engine: GenerationEngine) -> None:
    whole, row = engine.graph.whole, (Row("s", 0, 2),)
    for wrong in (pack_body(JSON, b"[1, 2]"), ids_of([[1, 2, 3]]), ids_of([[1], [2]]), ()):
        with pytest.raises(WireError, match="takes tokens int64"):
            engine.forward(whole, row, wrong, sampling=(GREEDY,))
    with pytest.raises(WireError, match="bytes"):
        engine.forward(whole, row, (Tensor("tokens", "int64", (1, 2), b"1"),), sampling=(GREEDY,))
    with pytest.raises(WireError, match="takes hidden_states float32"):
        engine.forward(UnitRange(1, 3), row, ids_of([[1, 2]]))
    with pytest.raises(WireError, match="1 rows and 0 samplings"):
        engine.forward(whole, row, ids_of([[1, 2]]))
    for token in (-1, 509):
        with pytest.raises(InvalidInputError, match="from 0 to 508"):
            engine.forward(whole, row, ids_of([[1, token]]), sampling=(GREEDY,))
    assert engine.state_bytes("s") == 0


def test_positions_beyond_the_context_are_refused(engine: GenerationEngine) -> None:
    begin(engine, "s", [5] * (CONTEXT - 1))
    follow(engine, "s", CONTEXT - 1, 5)
    for position in (-1, CONTEXT):
        with pytest.raises(InvalidInputError, match="beyond the 640 of the context"):
            follow(engine, "s", position, 5)


def test_units_that_are_not_loaded_do_not_compute(folder: Any) -> None:
    engine = opened(folder("mistral"))
    engine.load(UnitRange(0, 2))
    with pytest.raises(ModelFailedError, match="0:3 are not loaded here"):
        engine.forward(UnitRange(0, 3), (Row("s", 0, 1),), ids_of([[1]]))
    for units in (UnitRange(0, 2), UnitRange(0, 1), UnitRange(1, 2)):
        assert engine.warm_up(units) > 0
    assert not engine._sessions._sessions


def test_logits_that_are_no_numbers_are_no_token(
    engine: GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GenerationEngine, "_logits", lambda *_: torch.full((1, 509), float("nan")))
    with pytest.raises(ModelFailedError, match="NaN"):
        engine.forward(engine.graph.whole, (Row("s", 0),), ids_of([[1]]), sampling=(Sampling(),))


def test_noise_is_the_same_alone_and_in_company(engine: GenerationEngine, folder: Path) -> None:
    """Of the same seed and position; and another position has other noise."""

    def drawn(rows: list[Row], tokens: list[list[int]], *seeds: int) -> list[int]:
        how = tuple(Sampling(temperature=3.0, seed=seed) for seed in seeds)
        (made,) = engine.forward(engine.graph.whole, tuple(rows), ids_of(tokens), sampling=how)
        return [int(token) for token in np.frombuffer(made.data, "<i8")]

    alone = []
    for position, token in enumerate(PROMPT):
        alone += drawn([Row("s", position)], [[token]], 11)
    for other in ("t", "u"):
        begin(engine, other, PROMPT[:3])
    together = []
    for position, token in enumerate(PROMPT):
        rows = [Row("t", 3), Row("s", position), Row("u", 3)]
        together += drawn(rows, [[9], [token], [8]], 5, 11, 6)[1:2]
    assert together == alone
    assert len(set(alone)) > 30
