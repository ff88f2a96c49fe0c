"""How a token is drawn: what may be drawn, how often, and that nothing but its key decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.engine.torch.sampling import Doubles, Floats, draw, gumbel, random_words
from dsi_mqtt.errors import ModelFailedError

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, 1.5], np.float32)
DRAWS = 1500
# The first noise of seed 42 at position 7.
PINNED = [0.8400811314799376, 2.10126428137811, 0.5258192041873636]


def shares(sampling: Sampling, logits: Floats = LOGITS, draws: int = DRAWS) -> Doubles:
    """How often each token is drawn, of as many positions."""
    drawn = [draw(logits, sampling, position) for position in range(draws)]
    return np.bincount(drawn, minlength=len(logits)) / draws


def probabilities(logits: Floats, temperature: float) -> Doubles:
    weights = np.exp(logits.astype(float) / temperature)
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_they_are_likely(temperature: float) -> None:
    found = shares(Sampling(temperature=temperature, seed=3))
    assert np.abs(found - probabilities(LOGITS, temperature)).max() < 0.045


def test_without_temperature_the_likeliest_is_taken() -> None:
    for sampling in (Sampling(0.0), Sampling(1e-9, seed=5), Sampling(1e-300), Sampling(top_k=1)):
        assert {draw(LOGITS, sampling, position) for position in range(50)} == {0}


def test_a_high_temperature_makes_all_alike() -> None:
    assert np.abs(shares(Sampling(temperature=100.0)) - 1 / 6).max() < 0.045


def test_only_so_many_of_the_likeliest_are_drawn() -> None:
    found = shares(Sampling(temperature=2.0, top_k=3))
    assert set(np.flatnonzero(found)) == {0, 1, 5}
    expected = probabilities(LOGITS[[0, 1, 5]], 2.0)
    assert np.abs(found[[0, 1, 5]] - expected).max() < 0.045
    assert np.flatnonzero(shares(Sampling(temperature=3.0, top_k=99))).size == 6


def test_equals_of_the_last_likeliest_stay() -> None:
    equals = np.array([1.0, 0.0, 0.0, -5.0], np.float32)
    assert set(np.flatnonzero(shares(Sampling(top_k=2), equals))) == {0, 1, 2}


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-9, {0}), (0.41, {0}), (0.5, {0, 5}), (0.7, {0, 5, 1}), (1.0, set(range(6)))],
)
def test_only_a_share_of_the_probability_is_drawn_from(top_p: float, kept: set[int]) -> None:
    """They have 0.42, 0.25, 0.15, 0.09, 0.06 and 0.02, likeliest first."""
    assert set(np.flatnonzero(shares(Sampling(top_p=top_p, seed=9)))) == kept


def test_the_share_is_of_what_the_other_limit_left() -> None:
    found = shares(Sampling(top_k=2, top_p=0.6))
    assert set(np.flatnonzero(found)) == {0}
    assert probabilities(LOGITS, 1.0)[0] < 0.6


@given(seed=st.integers(0, 2**53 - 1), position=st.integers(0, 10**6), shift=st.floats(-1e-6, 1e-6))
def test_the_draw_depends_on_seed_and_position_alone(
    seed: int, position: int, shift: float
) -> None:
    """Not on the last bits of the logits, as another batch or machine makes them."""
    sampling = Sampling(temperature=0.8, top_p=0.97, seed=seed)
    logits = np.random.default_rng(7).normal(size=300).astype(np.float32) * 3
    first = draw(logits, sampling, position)
    assert draw(logits.copy(), sampling, position) == first
    noisy = (logits + np.float32(shift)).astype(np.float32)
    assert draw(noisy, sampling, position) == first


def noise(count: int, seed: int, position: int) -> Doubles:
    return gumbel(random_words(count, seed, position))


@given(
    position=st.integers(0, 1000),
    temperature=st.floats(0.05, 20),
    top_k=st.integers(0, 120),
    top_p=st.floats(0.01, 1.0),
)
def test_what_is_left_out_for_speed_could_not_be_drawn(
    position: int, temperature: float, top_k: int, top_p: float
) -> None:
    """Against the same by full sorting and with all the noise."""
    logits = np.random.default_rng(position).normal(size=100).astype(np.float32) * 3
    values = (logits - logits.max()).astype(float) / temperature
    order = np.argsort(-values, kind="stable")
    kept = order[: top_k or 100]
    weights = np.exp(values[kept])
    kept = kept[np.cumsum(weights) - weights < top_p * weights.sum() * (1 - 1e-12)]
    expected = kept[(values[kept] + noise(100, 5, position)[kept]).argmax()]
    assert draw(logits, Sampling(temperature, top_k, top_p, 5), position) == expected


def test_seeds_and_positions_have_noise_of_their_own() -> None:
    noises = [noise(1000, seed, position) for seed in (0, 1, 2**53) for position in (0, 1, 7)]
    for at, one in enumerate(noises):
        assert np.isfinite(one).all()
        for other in noises[:at]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.15
    assert np.array_equal(noise(10, 1, 2), noise(1000, 1, 2)[:10])


def test_noise_is_what_it_was_in_earlier_versions() -> None:
    """A generation goes on with the same noise on a node of another version."""
    assert noise(3, 42, 7).tolist() == pytest.approx(PINNED, abs=1e-12)


def test_tokens_that_are_ruled_out_are_not_drawn() -> None:
    logits = np.array([0.0, -np.inf, 1.0, -np.inf], np.float32)
    for sampling in (Sampling(5.0), Sampling(5.0, top_k=3), Sampling(5.0, top_p=0.999)):
        assert set(np.flatnonzero(shares(sampling, logits, 300))) == {0, 2}


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_no_token(wrong: float) -> None:
    logits = LOGITS.copy()
    logits[3] = wrong
    with pytest.raises(ModelFailedError, match="NaN or infinity"):
        draw(logits, Sampling(), 0)
