from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest

from dsi_mqtt.core.activation import JSON, TOKENS, Row, Tensor, Tensors, pack_body
from dsi_mqtt.core.caches import copy_bytes_max
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.generation import Sampling, Turn
from dsi_mqtt.core.model import ModelSpec, UnitRange, Vocabulary
from dsi_mqtt.engine.base import NOT_SAMPLED
from dsi_mqtt.engine.fake import FakeEngine, FakeFactory
from dsi_mqtt.errors import (
    InvalidInputError,
    ModelFailedError,
    SessionStaleError,
    WireError,
)

GREEDY = Sampling(temperature=0.0)


def generating(slept: list[float] | None = None, **options: object) -> FakeEngine:
    spec = ModelSpec(tier="fake", options=options)
    sleep = (lambda _: None) if slept is None else slept.append
    engine = FakeFactory(sleep=sleep).open(spec, Generation(context=64))
    engine.load(engine.graph.whole)
    return engine


def step(
    engine: FakeEngine,
    tokens: Sequence[Sequence[int]],
    *rows: tuple[str, int],
    cut: int | None = None,
    sampling: Sampling | None = GREEDY,
) -> list[int]:
    """One step of `rows` (session and position), in two segments where `cut` is given."""
    given = np.array(tokens, "<i8")
    many = tuple(Row(session, position, given.shape[1]) for session, position in rows)
    tensors: Tensors = (Tensor(TOKENS, "int64", given.shape, given.tobytes()),)
    whole, drawn = engine.graph.whole, (sampling,) * len(rows)
    if cut is not None:
        tensors = engine.forward(UnitRange(0, cut), many, tensors, sampling=drawn)
    (result,) = engine.forward(UnitRange(cut or 0, whole.stop), many, tensors, sampling=drawn)
    return [int(token) for token in np.frombuffer(result.data, "<i8")]


def test_tokens_do_not_depend_on_pieces_cuts_or_company() -> None:
    whole, pieces = generating(), generating()
    expected = step(whole, [[5, 6, 7]], ("s", 0))
    step(pieces, [[5, 6]], ("s", 0), cut=2, sampling=None)
    step(pieces, [[9]], ("t", 0))
    assert step(pieces, [[7], [3]], ("s", 2), ("t", 1), cut=3)[0] == expected[0]


def test_what_is_not_sampled_is_said_so() -> None:
    assert step(generating(), [[5]], ("s", 0), sampling=None) == [NOT_SAMPLED]


def test_noise_is_keyed_by_seed_and_position() -> None:
    def drawn(seed: int, first: int) -> list[int]:
        engine, sampling = generating(), Sampling(temperature=5.0, seed=seed)
        tokens = [1] * (first + 8)
        step(engine, [tokens[: first + 1]], ("s", 0))
        return [
            step(engine, [[1]], ("s", p), sampling=sampling)[0] for p in range(first, first + 8)
        ]

    assert drawn(1, 0) == drawn(1, 0) != drawn(2, 0)
    assert drawn(1, 0)[2:] == drawn(1, 2)[:6]


def move(source: FakeEngine, target: FakeEngine, units: UnitRange, first: int, last: int) -> None:
    state = source.export_state("s", units, first, last)
    assert len(state) <= copy_bytes_max(source.graph, units, last - first)
    target.import_state("s", units, first, last, state)


def test_a_sessions_state_moves() -> None:
    engine, other = generating(), generating()
    step(engine, [[5, 6, 7]], ("s", 0))
    move(engine, other, engine.graph.whole, 0, 3)
    assert other.state_bytes("s") == engine.state_bytes("s") == 6 * 3 * 16 * 4
    assert step(other, [[9]], ("s", 3)) == step(engine, [[9]], ("s", 3))


def test_a_session_that_is_behind_is_stale_and_nothing_is_computed() -> None:
    slept: list[float] = []
    engine = generating(slept, unit_ms=1)
    step(engine, [[1, 2]], ("s", 0))
    before = list(slept)
    with pytest.raises(SessionStaleError) as raised:
        step(engine, [[9], [9]], ("s", 2), ("t", 3))
    assert raised.value.have == {"t": 0}
    assert slept == before
    assert engine.state_bytes("s") == 6 * 2 * 16 * 4


def test_state_of_part_of_the_units_and_positions() -> None:
    engine, other = generating(), generating()
    for one in (engine, other):
        step(one, [[1, 2]], ("s", 0))
    step(engine, [[3, 4]], ("s", 2))
    for units in (UnitRange(0, 3), UnitRange(3, 6)):
        move(engine, other, units, 2, 4)
    assert step(other, [[5]], ("s", 4)) == step(engine, [[5]], ("s", 4))
    with pytest.raises(ModelFailedError, match="holds 5 positions"):
        engine.export_state("s", UnitRange(0, 1), 0, 9)


def test_an_earlier_position_replaces_what_followed() -> None:
    engine = generating()
    first = step(engine, [[1, 2, 3]], ("s", 0))
    step(engine, [[8]], ("s", 2))
    assert step(engine, [[3]], ("s", 2)) == first


def test_a_closed_session_leaves_nothing() -> None:
    engine = generating()
    step(engine, [[1, 2, 3]], ("s", 0))
    engine.close("s")
    engine.close("never there")
    assert engine.state_bytes("s") == 0


@pytest.mark.parametrize("blob", [b"", b"junk", b"PK\x03\x04junk"])
def test_damaged_states_are_refused(blob: bytes) -> None:
    with pytest.raises(WireError, match="session s"):
        generating().import_state("s", UnitRange(0, 1), 0, 2, blob)


@pytest.mark.parametrize(
    ("units", "first", "last"),
    [(UnitRange(0, 1), 0, 2), (UnitRange(0, 3), 0, 2), (UnitRange(0, 2), 0, 1),
     (UnitRange(0, 2), 0, 3), (UnitRange(0, 2), 1, 3), (UnitRange(1, 3), 0, 2)],
)  # fmt: skip
def test_a_state_of_anything_else_than_is_told_is_refused(
    units: UnitRange, first: int, last: int
) -> None:
    engine, other = generating(), generating()
    for one in (engine, other):
        step(one, [[1, 2, 3]], ("s", 0))
    before = other.state_bytes("s")
    with pytest.raises(WireError, match="session s"):
        other.import_state("s", units, first, last, engine.export_state("s", UnitRange(0, 2), 0, 2))
    assert other.state_bytes("s") == before


def test_a_state_that_is_packed_is_refused() -> None:
    """Few bytes may hold many."""
    blob = io.BytesIO()
    np.savez_compressed(blob, allow_pickle=False, **{"0@0": np.zeros((2, 16), np.float32)})
    with pytest.raises(WireError, match="packed"):
        generating().import_state("s", UnitRange(0, 1), 0, 2, blob.getvalue())


def test_a_state_that_does_not_follow_is_stale() -> None:
    engine, other = generating(), generating()
    step(engine, [[1, 2, 3]], ("s", 0))
    step(other, [[1]], ("s", 0))
    with pytest.raises(SessionStaleError) as raised:
        move(engine, other, UnitRange(0, 2), 2, 3)
    assert raised.value.have == {"s": 1}


def test_a_state_that_comes_again_or_late_takes_nothing_away() -> None:
    engine, other = generating(), generating()
    step(engine, [[1, 2, 3]], ("s", 0))
    for first, last in ((0, 2), (2, 3), (0, 2)):
        move(engine, other, engine.graph.whole, first, last)
    assert step(other, [[9]], ("s", 3)) == step(engine, [[9]], ("s", 3))


def test_a_step_must_be_what_its_rows_announce() -> None:
    engine = generating()
    with pytest.raises(WireError, match="takes"):
        engine.forward(engine.graph.whole, (Row("s", 0, 3),), pack_body(JSON, b"[1, 2]"))
    with pytest.raises(InvalidInputError, match="below 16"):
        step(engine, [[99]], ("s", 0))


def test_one_pass_keeps_no_sessions() -> None:
    engine = FakeFactory().open(ModelSpec(tier="fake"))
    engine.load(engine.graph.whole)
    with pytest.raises(ModelFailedError, match="one pass"):
        engine.forward(UnitRange(0, 6), (Row("s", 0, 1),), pack_body(JSON, b"[1]"))


def test_prompts_become_tokens_and_tokens_text() -> None:
    text = generating().text()
    assert text.read("w3 hello w3")[::2] == (3, 3)
    assert text.read((1, 2)) == (1, 2)
    assert text.read((Turn("user", "w5"),))[1] == 5
    assert text.stream().push((7, 1)) == " w7 w1"
    with pytest.raises(InvalidInputError, match="below 16"):
        text.read((16,))
    with pytest.raises(InvalidInputError, match="no words"):
        text.read("  ")


def test_the_graph_says_what_a_door_must_know() -> None:
    graph = generating(ends=[3]).graph
    assert graph.vocabulary == Vocabulary(context=64, size=16, ends=(3,))
    assert graph.state_bytes(UnitRange(1, 3)) == 2 * 16 * 4
