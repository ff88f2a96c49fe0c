"""What a head keeps of the texts that it draws."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core import drawn
from dsi_mqtt.core.activation import Row, Tensor
from dsi_mqtt.core.drawn import KEPT_S, DrawnTexts, as_tensor, tokens_of
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.message import Header, MessageKind
from dsi_mqtt.core.table import DOOR, Stamp
from tests.core.build import NAME

TEXT = Sampling(text=b"one")


def step(*rows: Row, sampling: tuple[Sampling | None, ...] = (TEXT,), name: str = NAME) -> Header:
    kind: MessageKind = "decode" if rows[0].tokens == 1 else "prefill"
    return Header(kind, name, Stamp(1, "n", 1), "s0", DOOR, rows=rows, sampling=sampling)


def told(texts: DrawnTexts, text: bytes = b"one") -> tuple[int, list[int]] | None:
    found = texts.of(NAME, text)
    return None if found is None else (found.first, list(found.tokens))


def draw(texts: DrawnTexts, header: Header, *tokens: int, now: float = 0.0) -> None:
    texts.drew(header, (as_tensor(array("q", tokens)),), now)


def test_tokens_are_kept_from_behind_the_prompt_on() -> None:
    texts = DrawnTexts()
    draw(texts, step(Row("s", 0, 3)), 40)
    draw(texts, step(Row("s", 3, 1)), 41)
    assert told(texts) == (3, [40, 41])


def test_rows_of_one_step_are_of_their_own_texts() -> None:
    texts = DrawnTexts()
    how = (TEXT, None, Sampling(text=b"two"), Sampling())
    draw(texts, step(*(Row(f"s{i}", i, 1) for i in range(4)), sampling=how), 40, -1, 41, 42)
    assert (told(texts), told(texts, b"two")) == ((1, [40]), (3, [41]))
    assert len(texts) == 2, "a text that nobody will ask for is kept"


def test_what_is_drawn_again_takes_the_place_of_all_from_there_on() -> None:
    texts = DrawnTexts()
    for position, token in enumerate((40, 41, 42, 43), 2):
        draw(texts, step(Row("s", position, 1, take=1)), token)
    draw(texts, step(Row("t", 0, 4, take=2)), 51)
    assert told(texts) == (3, [40, 51])


def test_a_door_that_another_has_taken_the_text_from_changes_nothing() -> None:
    """A token that it draws from its own would stand behind those of the other."""
    texts = DrawnTexts()
    draw(texts, step(Row("new", 0, 3, take=2)), 40)
    draw(texts, step(Row("old", 3, 1, take=1)), 99)
    assert told(texts) == (3, [40])


def test_a_head_that_came_later_knows_where_its_tokens_begin() -> None:
    texts = DrawnTexts()
    draw(texts, step(Row("s", 0, 3)), 40)
    draw(texts, step(Row("s", 9, 1)), 47)
    assert told(texts) == (10, [47])


def tell(texts: DrawnTexts, first: int, *tokens: int, take: int = 0, now: float = 0.0) -> None:
    header = Header(
        "state", NAME, Stamp(1, "n", 1), DOOR, "s0", recall=b"one",
        rows=(Row("", first, len(tokens), take),),
    )  # fmt: skip
    texts.known(header, (as_tensor(array("q", tokens)),), now)


def test_a_head_that_came_later_is_told_what_was_drawn_before() -> None:
    texts = DrawnTexts()
    tell(texts, 3, 40, 41)
    draw(texts, step(Row("s", 4, 1)), 42)
    assert told(texts) == (3, [40, 41, 42])


def test_what_it_is_told_may_come_behind_what_it_draws() -> None:
    texts = DrawnTexts()
    draw(texts, step(Row("s", 4, 1)), 42)
    tell(texts, 3, 40, 41)
    assert told(texts) == (3, [40, 41, 42])


def test_what_another_take_had_drawn_is_no_part_of_what_is_told() -> None:
    texts = DrawnTexts()
    draw(texts, step(Row("s", 4, 1, take=1)), 99)
    tell(texts, 3, 40, 41, take=2)
    assert told(texts) == (3, [40, 41])
    tell(texts, 3, 50, take=1)
    assert told(texts) == (3, [40, 41]), "a door of before knows no better"


def test_what_leaves_a_gap_begins_anew() -> None:
    texts = DrawnTexts()
    draw(texts, step(Row("s", 8, 1)), 46)
    tell(texts, 3, 40, 41)
    assert told(texts) == (3, [40, 41])


def test_a_head_that_draws_nothing_or_nonsense_keeps_nothing() -> None:
    texts = DrawnTexts()
    draw(texts, step(Row("s", 0, 3)), -1)
    draw(texts, step(Row("s", 0, 3)), 1, 2)
    texts.drew(step(Row("s", 0, 3)), (Tensor("hidden", "int64", (1,), bytes(8)),), 0.0)
    draw(texts, step(Row("s", 0, 3), sampling=()), 40)
    assert len(texts) == 0
    assert tokens_of((Tensor("tokens", "int32", (1,), bytes(4)),), 1) is None


def test_what_is_old_goes_and_what_goes_on_stays() -> None:
    texts = DrawnTexts()
    for text in (b"one", b"two"):
        draw(texts, step(Row("s", 0, 3), sampling=(Sampling(text=text),)), 40)
    draw(texts, step(Row("s", 3, 1)), 41, now=KEPT_S - 1)
    texts.expire(KEPT_S)
    assert (told(texts), told(texts, b"two")) == ((3, [40, 41]), None)
    texts.expire(2 * KEPT_S)
    assert len(texts) == 0


def test_with_its_deployment_a_text_goes() -> None:
    texts = DrawnTexts()
    draw(texts, step(Row("s", 0, 3)), 40)
    draw(texts, step(Row("s", 0, 3), name="other"), 41)
    texts.forget(NAME)
    assert told(texts) is None
    assert texts.of("other", b"one") is not None


@given(
    draws=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30), st.integers(1, 3)), max_size=80)
)
def test_no_more_is_kept_than_there_is_room_for(draws: list[tuple[int, int, int]]) -> None:
    few, tokens = drawn.TEXTS_MAX, drawn.TOKENS_MAX
    drawn.TEXTS_MAX, drawn.TOKENS_MAX = 4, 20  # type: ignore[misc]
    try:
        texts = DrawnTexts()
        for text, position, take in draws:
            row = Row("s", position, 1, take)
            draw(texts, step(row, sampling=(Sampling(text=bytes([65 + text])),)), 7)
            kept = [found for found in (told(texts, bytes([65 + n])) for n in range(7)) if found]
            assert len(kept) == len(texts) <= 4
            assert sum(len(found[1]) for found in kept) == texts._tokens <= 20
    finally:
        drawn.TEXTS_MAX, drawn.TOKENS_MAX = few, tokens  # type: ignore[misc]
