"""A door's generations, step by step: who is let in, what is fed, who leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dsi_mqtt.core.effects import (
    PublishPartial,
    Transmit,
    WriteText,
)
from dsi_mqtt.core.events import PartialTaken
from dsi_mqtt.core.generation import rolling_hash
from dsi_mqtt.core.promises import BACK_S
from dsi_mqtt.core.room import SESSIONS_HELD
from dsi_mqtt.core.session import SLICE_TOKENS, UNHEARD_S
from tests.core.build import NAME, make_input, make_spec
from tests.core.desk import Desk
from tests.core.desk_generation import (
    END,
    Desk2,
    asking,
    fed,
    headers,
    places,
    spec,
    started,
    ticking,
)

# --- the life of one --------------------------------------------------------------------------


def test_the_next_step_does_not_wait_for_the_text_of_the_last() -> None:
    desk = Desk2().give(asking(1))
    assert isinstance(desk, Desk2)
    desk.drawn(desk.step(), 7)
    order = [type(e) for e in desk.effects if isinstance(e, Transmit | WriteText)]
    assert order == [Transmit, WriteText]


def test_a_prompt_is_fed_and_each_token_after_it_until_the_end() -> None:
    desk = Desk2().give(asking(1, prompt=[7, 8, 9]))
    assert isinstance(desk, Desk2)
    step = desk.step()
    assert (step.header.kind, fed(step), places(step)) == ("prefill", [7, 8, 9], [(0, 3)])
    assert step.header.sampling[0] is not None
    step = desk.drawn(step, 40).step()
    assert (step.header.kind, fed(step), places(step)) == ("decode", [40], [(3, 1)])
    step = desk.drawn(step, 41).step()
    desk.drawn(step, END).write()
    (completion,) = desk.completions()
    assert completion.tokens == (40, 41)
    assert (completion.text, completion.finish_reason) == (" 40 41", "stop")
    assert completion.prompt_tokens == 3
    assert completion.hash == rolling_hash("", (40, 41))
    assert desk.partials() == []
    assert desk.take().acknowledged() == [1]
    assert desk.door.idle


def test_a_long_prompt_comes_in_slices_and_only_the_last_is_sampled() -> None:
    desk = Desk2().give(asking(1, prompt=list(range(3, 3 + 90)) * 6))
    assert isinstance(desk, Desk2)
    seen = []
    for _ in range(3):
        step = desk.step()
        seen.append((places(step)[0], step.header.sampling[0] is not None))
        desk.drawn(step)
        if len(seen) == 3:
            break
    assert seen == [
        ((0, SLICE_TOKENS), False),
        ((SLICE_TOKENS, SLICE_TOKENS), False),
        ((2 * SLICE_TOKENS, 540 - 2 * SLICE_TOKENS), True),
    ]
    # The head owes a token behind the last slice.
    assert desk.codes() == ["model_failed"]


def test_max_tokens_end_a_text_and_the_context_bounds_them() -> None:
    for ask, tokens in (({"max_tokens": 2}, 2), ({"prompt": [5] * 998, "max_tokens": 9}, 2)):
        desk = Desk2().give(asking(1, **ask))
        assert isinstance(desk, Desk2)
        while steps := desk.steps():
            desk.drawn(steps[0], *([40] if steps[0].header.sampling[0] else []))
        (completion,) = desk.write().completions()
        assert (len(completion.tokens), completion.finish_reason) == (tokens, "length")


def test_a_stream_tells_each_token_and_then_the_whole() -> None:
    desk = Desk2().give(asking(1, stream=True, max_tokens=3))
    assert isinstance(desk, Desk2)
    for token in (40, 41, 42):
        desk.drawn(desk.step(), token).write()
    partials = desk.partials()
    assert [(p.index, p.tokens, p.text) for p in partials] == [
        (0, (40,), " 40"),
        (1, (41,), " 41"),
        (2, (42,), " 42"),
    ]
    (completion,) = desk.completions()
    assert partials[-1].hash == completion.hash
    assert {p.take for p in partials} == {completion.take}


def test_a_stop_string_ends_the_text_before_it() -> None:
    desk = Desk2().give(asking(1, stream=True, max_tokens=9, stop=["1 4"]))
    assert isinstance(desk, Desk2)
    for token in (40, 41, 42):
        desk.drawn(desk.step(), token).write()
    (completion,) = desk.completions()
    assert (completion.text, completion.finish_reason) == (" 40 4", "stop")
    assert completion.tokens == (40, 41, 42)
    assert "".join(p.text for p in desk.partials()) == completion.text
    # The step behind it may still be in the chain: what comes of it is nobody's.
    assert desk.drawn(desk.step(), 43).write().codes() == ["ok"]


def test_a_repeated_input_gets_all_that_was_told_so_far() -> None:
    desk = Desk2().give(asking(1, stream=True))
    assert isinstance(desk, Desk2)
    for token in (40, 41):
        desk.drawn(desk.step(), token).write()
    before = len(desk.partials())
    desk.give(replace(asking(1, stream=True), receipt=9))
    (again,) = desk.partials()[before:]
    assert (again.index, again.tokens, again.text) == (0, (40, 41), " 40 41")


def test_the_noise_of_an_input_is_the_same_in_every_telling() -> None:
    def seed(receipt: int, number: int = 1) -> int:
        desk = Desk2().give(replace(asking(number, seed=None), receipt=receipt))
        assert isinstance(desk, Desk2)
        how = desk.step().header.sampling[0]
        assert how is not None
        return how.seed

    assert seed(1) == seed(2) != seed(1, number=2)


# --- company ----------------------------------------------------------------------------------


def test_as_many_steps_are_in_the_chain_as_it_has_nodes_each_with_its_share() -> None:
    desk = Desk2()
    first, second = started(desk, 6)
    for _ in range(6):
        assert desk.steps() == [], "a third step in a chain of two nodes"
        desk.drawn(first, *([41] * len(first.header.rows)))
        first, second = second, desk.step()
    assert len(first.header.rows) == len(second.header.rows) == 3


def test_sessions_join_and_leave_between_steps() -> None:
    desk = Desk2()
    first, second = started(desk, 6)
    alive = {row.session for step in (first, second) for row in step.header.rows}
    for _ in range(6):
        rows = first.header.rows
        desk.drawn(first, *([41] * len(rows)))
        later = desk.steps()
        first, second = second, later[-1]
        alive |= {row.session for step in later for row in step.header.rows}
    assert len(alive) == 6
    assert {len(first.header.rows), len(second.header.rows)} == {3}
    leaves = first.header.rows[0].session
    desk.drawn(first, END, *([41] * (len(first.header.rows) - 1)))
    assert leaves not in {row.session for step in desk.steps() for row in step.header.rows}


def test_more_than_all_places_is_refused_at_once_and_the_queue_moves_up() -> None:
    desk = Desk2(sessions_max=1, queue_max=1)
    desk.give(asking(1), asking(2), asking(3))
    assert desk.codes() == ["overloaded"]
    step = desk.step()
    desk.drawn(step, END).write().take()
    assert fed(desk.step()) == [52]


def test_caches_that_do_not_fit_wait_and_those_that_never_will_are_refused() -> None:
    # A node holds three units of 1 KiB a position: 256 positions in one MiB, and one unit growing.
    desk = Desk2(kv_mib_max=1)
    desk.give(asking(1, max_tokens=200), asking(2, max_tokens=200), asking(3, max_tokens=256))
    step = desk.step()
    assert fed(step) == [51]
    desk.drawn(step, END).write().take()
    assert desk.steps() == [], "nodes have yet to hear that the first may go"
    desk.look()
    assert headers(desk.wait(0.05).effects, "state")
    desk.wait(0.05)
    assert fed(desk.step()) == [52]
    (failure,) = [reply.failure for reply in desk.replies() if reply.failure]
    assert failure.code == "invalid_input"
    assert "kv_mib_max" in failure.message


def test_sessions_that_end_faster_than_nodes_are_told_wait_for_that() -> None:
    desk = Desk2(sessions_max=1, queue_max=20, idle_s=0)
    begun = 0
    for number in range(1, 9):
        desk.give(asking(number, max_tokens=1))
        for step in desk.steps():
            desk.drawn(step, END).write().take()
            begun += 1
    assert begun == SESSIONS_HELD
    desk.wait(0.05).wait(0.05)
    assert len(desk.steps()) == 1


def test_a_prompt_beyond_the_context_is_refused() -> None:
    desk = Desk2().give(asking(1, prompt=[5] * 1000))
    (reply,) = desk.replies()
    assert reply.failure is not None
    assert "1000 tokens" in reply.failure.message


def test_what_a_device_says_next_goes_on_where_its_cache_ends() -> None:
    desk = Desk2()
    desk.give(asking(1, prompt=[5, 6, 7], max_tokens=1))
    desk.drawn(desk.step(), 40).write().take()
    desk.give(asking(2, prompt=[5, 6, 7, 40, 9], max_tokens=1))
    step = desk.step()
    assert (places(step), fed(step)) == ([(3, 2)], [40, 9])
    desk.give(asking(3, device="other", prompt=[5, 6, 7, 40, 9, 1], max_tokens=1))
    assert places(desk.step()) == [(0, 6)]


def test_one_who_goes_on_with_a_cache_runs_on_when_the_text_before_is_written() -> None:
    desk = Desk2()
    desk.give(asking(1, prompt=[5, 6], max_tokens=1), asking(2, prompt=[5, 6, 7]))
    first, second = desk.steps()
    desk.drawn(second, END).drawn(first, 40)  # both have ended, and neither text is written
    desk.give(asking(3, prompt=[5, 6, 7, 8]))
    (step,) = desk.steps()
    assert places(step) == [(3, 1)]
    desk.write()
    for token in (41, 42):
        step = desk.drawn(step, token).step()
    assert desk.codes() == ["ok", "ok"]


def test_a_cache_that_is_to_be_used_again_is_dropped_last() -> None:
    # Each is allotted 64 positions; the fourth 256, which are all there is room for.
    desk = Desk2(kv_mib_max=1)
    for number, first in enumerate((5, 6, 7), 1):
        desk.give(asking(number, prompt=[first, 1, 2], max_tokens=1))
        desk.drawn(desk.step(), 40).write().take()
    desk.give(asking(4, prompt=[5, 1, 2, 9], max_tokens=250))
    desk.wait(0.05).wait(0.05)
    assert places(desk.step()) == [(3, 1)]


def test_a_cache_counts_as_what_it_once_held() -> None:
    desk = Desk2(kv_mib_max=1)
    desk.give(asking(1, prompt=[5] * 250, max_tokens=1))
    desk.drawn(desk.step(), 40).write().take()
    desk.give(asking(2, prompt=[5, 9], max_tokens=1), asking(3, device="b", prompt=[7]))
    assert [fed(step) for step in desk.steps()] == [[9]], "both at once are more than the bound"


# --- devices that leave -----------------------------------------------------------------------


def test_a_cancel_ends_it_in_the_chain_too_even_when_it_comes_first() -> None:
    desk = Desk2().give(asking(1))
    assert isinstance(desk, Desk2)
    step = desk.step()
    desk.do(desk.door.cancelled(asking(1).key, 0.0))
    assert desk.codes() == ["cancelled"]
    assert [h.request for h in headers(desk.effects, "cancel")] == [step.header.request] * 2
    desk.do(desk.door.cancelled(asking(2).key, 0.0))
    desk.give(asking(2))
    assert desk.codes() == ["cancelled", "cancelled"]


def test_a_device_that_promised_to_speak_and_does_not_is_not_waited_for() -> None:
    desk = Desk2().give(asking(1, alive_s=2), asking(2, device="plain"))
    ticking(desk, 1.5)
    desk.door.device_spoke("cam", desk.now)
    assert ticking(desk, 1.9) == []
    assert ticking(desk, 0.5) == ["cancelled"]


def test_a_door_that_hears_nobody_gives_nobody_up() -> None:
    desk = Desk2().give(asking(1, alive_s=2))
    assert isinstance(desk, Desk2)
    desk.door.hearing(hears=False)
    assert ticking(desk, 3.0) == []
    desk.door.hearing(hears=True)
    # The device may need a while to be back, and then has to speak again.
    assert ticking(desk, 2.0 + BACK_S - 0.2) == []
    assert ticking(desk, 0.5) == ["cancelled"]


def test_a_door_that_stood_still_hears_first_what_was_said_meanwhile() -> None:
    desk = Desk2().give(asking(1, alive_s=2))
    ticking(desk, 1.0)
    assert desk.wait(5.0).codes() == []  # in one tick
    desk.door.device_spoke("cam", desk.now)
    assert ticking(desk, 1.9) == []
    assert ticking(desk, 0.5) == ["cancelled"]


def test_a_stream_that_nobody_hears_ends_after_a_while() -> None:
    desk = Desk2().give(asking(1, stream=True))
    request = make_input(1).request

    def taken(*, heard: bool) -> Sequence[str]:
        return desk.do(desk.door.text_event(PartialTaken(NAME, request, heard), desk.now)).codes()

    assert taken(heard=False) == []
    desk.now += UNHEARD_S
    assert taken(heard=True) == []
    assert taken(heard=False) == []
    desk.now += UNHEARD_S
    assert taken(heard=False) == ["cancelled"]


def test_the_broker_is_asked_once_a_second_whether_anybody_hears() -> None:
    desk = Desk2().give(asking(1, stream=True, max_tokens=9))
    assert isinstance(desk, Desk2)
    for _ in range(9):
        desk.now += 0.3
        desk.drawn(desk.step(), 40).write()
    asked = [effect.ask for effect in desk.effects if isinstance(effect, PublishPartial)]
    assert asked == [True, False, False, False, True, False, False, False, True]


@pytest.mark.parametrize("kind", ["one-pass", "generation"])
def test_a_deployment_of_another_kind_answers_what_was_for_the_first(kind: str) -> None:
    desk = Desk2() if kind == "generation" else Desk()
    desk.give(asking(1))
    other = make_spec() if kind == "generation" else spec()
    desk.do(desk.door.spec_changed(other, desk.now))
    assert desk.codes() == ["unavailable"]
