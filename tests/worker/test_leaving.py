"""What waits to leave a door: order, one message of a stream at a time, nothing lost."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.effects import PublishPartial, PublishReply
from dsi_mqtt.core.generation import Partial
from dsi_mqtt.core.request import Reply
from dsi_mqtt.worker.leaving import Leaving, Outgoing
from tests.core.build import NAME, make_input
from tests.thoroughness import examples

GIVEN = make_input(1)


def part(index: int, *tokens: int, request: bytes = b"r", take: int = 1) -> PublishPartial:
    text = "".join(f" {token}" for token in tokens)
    return PublishPartial(NAME, request, GIVEN, Partial(take, index, tokens, text, f"h{index}"))


def answer(request: bytes = b"r") -> PublishReply:
    return PublishReply(NAME, request, Reply.result(GIVEN, "text/plain", b"x"))


async def taken(leaving: Leaving, count: int) -> list[Outgoing]:
    async with asyncio.timeout(5):
        return [await leaving.get() for _ in range(count)]


async def test_what_comes_while_a_part_is_out_goes_into_one_after_it() -> None:
    leaving = Leaving()
    for index in range(3):
        leaving.put(part(index, index))
    (first,) = await taken(leaving, 1)
    assert isinstance(first, PublishPartial)
    assert first.partial == Partial(1, 0, (0, 1, 2), " 0 1 2", "h2")
    leaving.put(part(3, 3))
    leaving.put(part(4, 4))
    leaving.put(part(0, 7, request=b"other"))
    (other,) = await taken(leaving, 1)
    assert isinstance(other, PublishPartial)
    assert other.request == b"other"
    leaving.finished(first)
    (second,) = await taken(leaving, 1)
    assert isinstance(second, PublishPartial)
    assert second.partial.tokens == (3, 4)


async def test_nothing_goes_out_behind_the_answer() -> None:
    leaving = Leaving()
    leaving.put(part(0, 1))
    (first,) = await taken(leaving, 1)
    leaving.put(part(1, 2))
    leaving.put(answer())
    second, last = await taken(leaving, 2)
    assert (second, last) == (part(1, 2), answer())
    for effect in (first, second, last):
        leaving.finished(effect)
    await asyncio.wait_for(leaving.empty(), 5)


async def test_a_part_that_got_lost_does_not_go_behind_the_answer_that_waits() -> None:
    leaving = Leaving()
    leaving.put(part(0, 1))
    (first,) = await taken(leaving, 1)
    leaving.put(answer())
    leaving.put(first)  # the connection was lost
    leaving.finished(first)
    leaving.put(part(0, 1, request=b"other"))
    assert await taken(leaving, 2) == [answer(), part(0, 1, request=b"other")]
    for effect in (answer(), part(0, 1, request=b"other")):
        leaving.finished(effect)
    await asyncio.wait_for(leaving.empty(), 5)


async def test_a_part_and_the_answer_that_get_lost_together_leave_the_answer_last() -> None:
    for order in ([0, 1], [1, 0]):
        leaving = Leaving()
        leaving.put(part(0, 1))
        leaving.put(answer())
        both = await taken(leaving, 2)
        for index in order:
            leaving.put(both[index])
            leaving.finished(both[index])
        leaving.put(part(0, 9, request=b"other"))
        assert await taken(leaving, 2) == [answer(), part(0, 9, request=b"other")]


async def test_what_got_lost_comes_before_what_followed_it() -> None:
    leaving = Leaving()
    leaving.put(part(0, 1))
    (first,) = await taken(leaving, 1)
    leaving.put(part(1, 2))
    leaving.put(first)
    leaving.finished(first)
    (again,) = await taken(leaving, 1)
    assert isinstance(again, PublishPartial)
    assert again.partial == Partial(1, 0, (1, 2), " 1 2", "h1")


async def test_a_whole_telling_and_a_higher_take_win() -> None:
    leaving = Leaving()
    leaving.put(part(2, 3))
    leaving.put(part(0, 1, 2, 3))
    leaving.put(part(0, 9, take=2))
    (only,) = await taken(leaving, 1)
    assert isinstance(only, PublishPartial)
    assert only.partial.tokens == (9,)


@settings(max_examples=examples(100))
@given(actions=st.lists(st.sampled_from(["tell", "take", "finish", "lose"]), max_size=40))
def test_every_token_is_told_in_order_whatever_gets_lost(actions: list[str]) -> None:
    async def play() -> list[int]:
        leaving, told = Leaving(), 0
        out: list[Outgoing] = []
        got: list[int] = []
        for action in [*actions, *["finish", "take"] * 2, "finish"]:
            if action == "tell":
                leaving.put(part(told, told))
                told += 1
            elif action == "take" and not out and leaving._order:
                out += await taken(leaving, 1)
            elif action == "finish" and out:
                effect = out.pop()
                assert isinstance(effect, PublishPartial)
                got += effect.partial.tokens
                leaving.finished(effect)
            elif action == "lose" and out:
                effect = out.pop()
                leaving.put(effect)
                leaving.finished(effect)
        await asyncio.wait_for(leaving.empty(), 5)
        assert got == list(range(told))
        return got

    asyncio.run(play())
