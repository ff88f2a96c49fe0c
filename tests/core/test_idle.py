from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.idle import IdleSession, IdleSessions

TOKENS = st.lists(st.integers(0, 2), max_size=6).map(tuple)


def kept(*sessions: tuple[str, str, tuple[int, ...]], until: float = 10.0) -> IdleSessions:
    idle = IdleSessions()
    for name, device, tokens in sessions:
        idle.keep(IdleSession(name, device, tokens, until, len(tokens)))
    return idle


def reuse(idle: IdleSessions, tokens: Sequence[int]) -> tuple[str, int] | None:
    """Goes on with the best one for device cam, if there is any."""
    found = idle.best("cam", tokens)
    if found is None:
        return None
    idle.reuse(found[0])
    return found[0].name, found[1]


def test_a_device_goes_on_where_its_own_session_was() -> None:
    idle = kept(("s1", "cam", (1, 2)), ("s2", "cam", (1, 2, 3, 4)), ("s3", "car", (1, 2, 3, 9, 9)))
    assert reuse(idle, [1, 2, 3, 9, 9, 9]) == ("s2", 3)
    assert reuse(idle, [1, 2, 3]) == ("s1", 2)
    assert reuse(idle, [1, 2, 3]) is None
    assert idle.sizes() == [5]


@given(held=TOKENS, asked=TOKENS.filter(bool))
def test_one_token_is_always_left_to_feed(held: tuple[int, ...], asked: tuple[int, ...]) -> None:
    found = reuse(kept(("s", "cam", held)), asked)
    if found is not None:
        assert 0 < found[1] < len(asked)
        assert held[: found[1]] == asked[: found[1]]
    else:
        assert not held or len(asked) == 1 or held[0] != asked[0]


def test_what_is_old_goes_and_the_oldest_makes_room() -> None:
    idle = kept(("s1", "cam", (1,)), ("s2", "cam", (1, 2)))
    assert not idle.expire(9.0)
    assert idle.drop_oldest()
    assert [row.session for row in idle.rows()] == ["s2"]
    spared, _ = idle.best("cam", (1, 2, 3)) or (None, 0)
    assert not idle.drop_oldest(but=spared)
    assert idle.expire(10.0)
    assert not idle.drop_oldest()
    assert len(idle) == 0
