"""What a reader sees of a stream: one text, each token once, whatever happens to its messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.generation import Completion, Partial, rolling_hash
from dsi_mqtt.core.stream import AHEAD_MAX, Piece, TokenStream
from dsi_mqtt.errors import RequestError

# Token 0 has no text: it is half of a character, which comes with the token that follows.
VOCABULARY = ["", "a", "b", " c", "é", "\ud83d"]


def text_of(tokens: Sequence[int]) -> str:
    return "".join(VOCABULARY[token % len(VOCABULARY)] for token in tokens)


def partial(take: int, told: Sequence[int], index: int, end: int) -> Partial:
    return Partial(
        take,
        index,
        tuple(told[index:end]),
        text_of(told[index:end]),
        rolling_hash("", told[:end]),
    )


def completion(take: int, told: Sequence[int]) -> Completion:
    return Completion(take, tuple(told), text_of(told), rolling_hash("", told), "stop", 1)


@dataclass
class Reader:
    """Puts pieces together as the documents tell a reader to, and checks each."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    take: int = -1
    replaced: int = 0

    def read(self, stream: TokenStream) -> Piece | None:
        piece = stream.piece()
        if piece is None:
            return None
        if piece.replaces:
            self.text, self.tokens = "", ()
            self.replaced += 1
        assert piece.index == len(self.tokens)
        assert piece.replaces or piece.tokens or piece.text
        self.text += piece.text
        self.tokens += piece.tokens
        self.take = piece.take
        assert stream.piece() is None
        return piece


TOKENS = st.lists(st.integers(0, 40), max_size=25)


@st.composite
def messages(draw: st.DrawFn, told: Sequence[int], take: int) -> list[Partial]:
    """A take as one or two doors' worth of messages, cut differently."""
    found = []
    for _ in range(draw(st.integers(1, 2))):
        cuts = draw(st.sets(st.integers(1, max(len(told), 1)))) | {len(told)}
        edges = [0, *sorted(cut for cut in cuts if cut <= len(told))]
        found += [partial(take, told, a, b) for a, b in pairwise(edges) if a < b]
    return found


@given(st.data())
def test_whatever_happens_to_the_messages_the_reader_ends_with_the_answer(
    data: st.DataObject,
) -> None:
    takes = data.draw(st.lists(TOKENS, min_size=1, max_size=3), label="takes")
    sent = [m for take, told in enumerate(takes) for m in data.draw(messages(told, take))]
    # Each is lost, or comes once or twice, anywhere.
    sent = data.draw(st.permutations(sent * data.draw(st.integers(1, 2))), label="order")
    sent = [m for m in sent if not data.draw(st.booleans())]
    answer = data.draw(st.integers(0, len(takes) - 1), label="answered take")
    reader, stream = Reader(), TokenStream()
    for message in sent:
        stream.told(message)
        if data.draw(st.booleans()):
            reader.read(stream)
            assert tuple(takes[max(reader.take, 0)][: len(reader.tokens)]) == reader.tokens
            assert reader.text == text_of(reader.tokens)
    stream.answered(completion(answer, takes[answer]))
    reader.read(stream)
    assert (reader.tokens, reader.text) == (tuple(takes[answer]), text_of(takes[answer]))
    assert stream.contradictions == 0
    for message in sent:
        stream.told(message)
    assert stream.piece() is None


@given(TOKENS, st.data())
def test_takes_that_tell_the_same_are_never_noticed(told: list[int], data: st.DataObject) -> None:
    sent = [m for take in range(3) for m in data.draw(messages(told, take))]
    reader, stream = Reader(), TokenStream()
    for message in data.draw(st.permutations(sent)):
        stream.told(message)
        if data.draw(st.booleans()):
            reader.read(stream)
    stream.answered(completion(data.draw(st.integers(0, 2)), told))
    reader.read(stream)
    assert (reader.tokens, reader.text, reader.replaced) == (tuple(told), text_of(told), 0)


@given(TOKENS, st.data())
def test_nothing_waits_for_the_answer_when_nothing_is_lost(
    told: list[int], data: st.DataObject
) -> None:
    stream, reader = TokenStream(), Reader()
    sent = [partial(0, told, i, i + 1) for i in range(len(told))]
    for message in data.draw(st.permutations(sent)):
        stream.told(message)
    reader.read(stream)
    assert reader.tokens == tuple(told)


@given(TOKENS.filter(bool), st.data())
def test_a_message_that_contradicts_is_dropped_and_counted(
    told: list[int], data: st.DataObject
) -> None:
    stream, reader = TokenStream(), Reader()
    sent = [partial(0, told, i, i + 1) for i in range(len(told))]
    wrong = data.draw(st.integers(0, len(told) - 1))
    bad = data.draw(
        st.sampled_from(
            [
                replace(sent[wrong], tokens=(told[wrong] + 1,)),
                replace(sent[wrong], hash="0" * 16),
                replace(sent[wrong], index=-1),
            ]
        )
    )
    when = data.draw(st.integers(0, wrong))
    for message in [*sent[:when], bad, *sent[when:]]:
        stream.told(message)
        reader.read(stream)
    assert stream.contradictions == 1
    assert reader.tokens == tuple(told)


def test_each_take_of_a_story() -> None:
    stream = TokenStream()
    first, second = [1, 2, 3], [1, 2, 4, 5]
    stream.told(partial(1, first, 0, 2))
    assert stream.piece() == Piece("ab", (1, 2), 0, 1)
    stream.told(partial(2, second, 0, 1))  # a new door tells what was seen again
    assert stream.piece() is None
    stream.told(partial(1, first, 2, 3))  # the old one has not noticed yet
    assert stream.piece() is None
    stream.told(partial(2, second, 1, 3))
    assert stream.piece() == Piece("é", (4,), 2, 2)
    stream.told(partial(3, [1, 3], 0, 1))
    assert stream.piece() is None
    stream.told(partial(3, [1, 3], 1, 2))
    assert stream.piece() == Piece("a c", (1, 3), 0, 3, replaces=True)
    stream.answered(completion(3, [1]))  # shorter than what was seen
    assert stream.piece() == Piece("a", (1,), 0, 3, replaces=True)


def test_text_that_only_the_answer_tells_comes_as_a_piece_of_its_own() -> None:
    stream = TokenStream()
    stream.told(replace(partial(1, [1, 2], 0, 2), text="a"))  # "b" may begin a stop string
    assert stream.piece() == Piece("a", (1, 2), 0, 1)
    stream.answered(completion(1, [1, 2]))
    assert stream.piece() == Piece("b", (), 2, 1)


def test_an_answer_whose_hash_is_not_its_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="hash is not that of its tokens"):
        TokenStream().answered(replace(completion(1, [1, 2]), hash="0" * 16))


def test_what_comes_too_early_is_bounded_and_the_nearest_is_kept() -> None:
    told = [1] * (AHEAD_MAX * 2)
    stream = TokenStream()
    for index in range(len(told) - 1, 0, -1):
        stream.told(partial(1, told, index, index + 1))
    assert stream.piece() is None
    stream.told(partial(1, told, 0, 1))
    piece = stream.piece()
    assert piece is not None
    assert len(piece.tokens) == AHEAD_MAX + 1
