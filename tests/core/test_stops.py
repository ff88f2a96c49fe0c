from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.stops import StopFinder

ALPHABET = "ab."


def until_stop(text: str, stops: tuple[str, ...]) -> str:
    """What lies before the stop string that is complete first, as one reads."""
    for end in range(len(text) + 1):
        found = [at for stop in stops if (at := text[:end].find(stop)) >= 0]
        if found:
            return text[: min(found)]
    return text


@given(
    pieces=st.lists(st.text(ALPHABET, max_size=4), max_size=8),
    stops=st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_however_it_comes_the_text_ends_at_the_first_stop(
    pieces: list[str], stops: tuple[str, ...]
) -> None:
    finder = StopFinder(stops)
    given_out = ""
    for piece in pieces:
        given_out += finder.push(piece)
        assert "".join(pieces).startswith(given_out)
    given_out += finder.flush()
    whole = "".join(pieces)
    assert finder.found == any(stop in whole for stop in stops)
    if not finder.found:
        assert given_out == whole
    else:
        assert not any(stop in given_out for stop in stops)
        # With pieces of one character there is no doubt which came first.
        if all(len(piece) <= 1 for piece in pieces):
            assert given_out == until_stop(whole, stops)


def test_what_may_begin_a_stop_is_held_back_and_no_more() -> None:
    finder = StopFinder(("END",))
    assert finder.push("the E") == "the "
    assert finder.push("N") == ""
    assert finder.push("d END of") == "ENd "
    assert finder.push("more") == finder.flush() == ""
