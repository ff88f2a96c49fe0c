"""The n-gram model: a distribution, and the one that Chen and Goodman define."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.decoder.ngram import NgramModel
from examples.decoder.text import read_pages, split
from tests.thoroughness import examples

TEXT = b"the cat sat on the mat, the rat sat on the cat. " * 3 + b"that is all there is"


def by_definition(data: bytes, order: int, context: bytes, symbol: int) -> float:
    """Interpolated modified Kneser-Ney, one probability at a time, straight from the formulas."""
    padded = bytes(order) + data
    counts = Counter(padded[i : i + order + 1] for i in range(len(data)))
    levels = [counts]
    for _ in range(order):
        counts = Counter(gram[1:] for gram in counts)
        levels.insert(0, counts)  # how many different bytes a shorter gram follows
    probability = 1 / 256
    for length, level in enumerate(levels):
        before = context[len(context) - length :]
        followers = {gram: n for gram, n in level.items() if gram[:-1] == before}
        if followers:
            taken = {gram: discount(level, n) for gram, n in followers.items()}
            gram = before + bytes([symbol])
            share = followers.get(gram, 0) - taken.get(gram, 0)
            probability = (share + sum(taken.values()) * probability) / sum(followers.values())
    return probability


def discount(level: Counter[bytes], count: int) -> float:
    n = [sum(c == k for c in level.values()) for k in range(5)]
    if not all(n[1:]):
        return 0.5
    k = min(count, 3)
    estimate = k - (k + 1) * n[1] / (n[1] + 2 * n[2]) * n[k + 1] / n[k]
    return min(max(estimate, 0), k)


@given(st.binary(max_size=9), st.binary(min_size=1, max_size=60), st.integers(0, 6))
def test_every_distribution_sums_to_one(context: bytes, data: bytes, order: int) -> None:
    distribution = NgramModel(data, order).distribution(context)
    assert distribution.shape == (256,)
    assert distribution.min() > 0
    assert distribution.sum() == pytest.approx(1, abs=1e-12)


@given(st.binary(max_size=8))
def test_the_real_text_s_distributions_sum_to_one(context: bytes) -> None:
    assert REAL.distribution(context).sum() == pytest.approx(1, abs=1e-12)


@given(
    st.sampled_from([TEXT, bytes(range(40)) * 2, b"aab" * 9, b"x"]), st.integers(0, 3), st.data()
)
@settings(max_examples=examples(60))
def test_it_is_kneser_and_ney_s(data: bytes, order: int, draw: st.DataObject) -> None:
    context = draw.draw(st.one_of(st.binary(min_size=3, max_size=3), st.sampled_from(cut(data))))
    symbol = draw.draw(st.one_of(st.integers(0, 255), st.sampled_from(list(data))))
    found = NgramModel(data, order).distribution(context)[symbol]
    assert found == pytest.approx(by_definition(data, order, context, symbol), rel=1e-9)


def cut(data: bytes) -> list[bytes]:
    padded = bytes(3) + data
    return [padded[i : i + 3] for i in range(len(data))]


def test_a_text_s_bytes_get_the_distributions_they_come_from() -> None:
    model = NgramModel(TEXT, 4)
    data = b"the rat on that mat"
    one_by_one = [model.distribution(data[:i])[data[i]] for i in range(len(data))]
    assert np.allclose(model.probabilities(data), one_by_one, rtol=1e-12)


REAL = NgramModel("\0".join(split(read_pages())[0][:200]).encode(), 5)
