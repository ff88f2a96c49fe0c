"""A door's generations, step by step: who is let in, what is fed, what follows from evidence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dsi_mqtt.core.activation import JSON, TOKENS, Row, Tensor
from dsi_mqtt.core.deployment import Deployment, Generation
from dsi_mqtt.core.effects import (
    Effects,
    PublishPartial,
    PublishReply,
    ReadPrompt,
    Transmit,
    WriteRecord,
    WriteText,
)
from dsi_mqtt.core.events import PartialTaken, PromptRead, TextWritten
from dsi_mqtt.core.generation import Completion, Partial, rolling_hash
from dsi_mqtt.core.message import WORK, Activation, Failure, Header
from dsi_mqtt.core.model import ModelGraph, Unit, Vocabulary
from dsi_mqtt.core.places import TAKES
from dsi_mqtt.core.promises import BACK_S
from dsi_mqtt.core.request import Input, ParsedInput, Redelivery
from dsi_mqtt.core.session import PIECE_TOKENS, UNHEARD_S
from dsi_mqtt.core.table import EPOCH_MAX, Table
from dsi_mqtt.wire.asks import read_ask
from dsi_mqtt.wire.ranges import NUMBER_MAX
from tests.core.build import NAME, A, B, C, Member, make_input, make_spec, make_table
from tests.core.desk import Desk

ON_B = make_table((A, (0, 3)), (B, (3, 6)), epoch=1)
ON_C = make_table((A, (0, 3)), (C, (3, 6)), epoch=2)
END = 2
STATE_BYTES = 1024
GRAPH = ModelGraph(
    "m1",
    "fake",
    tuple(Unit(f"u{i}", 10, 1.0, 4, STATE_BYTES) for i in range(6)),
    vocabulary=Vocabulary(1000, 100, (END,)),
)


def spec(**limits: object) -> Deployment:
    generation = replace(Generation(context=1000, max_tokens=5, idle_s=30.0), **limits)  # type: ignore[arg-type]
    return replace(make_spec(max_bytes=100_000), kind="generation", generation=generation)


def asking(number: int, *, device: str = "cam", duplicate: bool = False, **ask: object) -> Input:
    body = json.dumps({"prompt": [50 + number], "temperature": 0, **ask}).encode()
    given = make_input(number, device=device, duplicate=duplicate)
    return replace(given, parsed=ParsedInput(None, JSON, body), nbytes=len(body))


class Desk2(Desk):
    """A door of generations, whose prompts are token ids and whose tokens read " 7"."""

    def __init__(self, table: Table | None = ON_B, *, door: Member = A, **limits: object) -> None:
        super().__init__(table, spec(**limits), door)
        self.do(self.door.model_is(GRAPH, self.now))

    def do(self, effects: Effects) -> Desk2:
        super().do(effects)
        for effect in effects:
            if isinstance(effect, ReadPrompt):
                ask = read_ask(effect.parsed.body, effect.limits)
                assert isinstance(ask.prompt, tuple)
                tokens = tuple(token for token in ask.prompt if isinstance(token, int))
                read = PromptRead(NAME, effect.request, ask, tokens)
                self.do(self.door.text_event(read, self.now))
        return self

    def write(self) -> Desk2:
        """Every text that is to be written is."""
        for effect in [e for e in self.effects if isinstance(e, WriteText)]:
            self.effects.remove(effect)
            text = "".join(f" {token}" for token in effect.tokens)
            told = TextWritten(NAME, effect.request, len(effect.tokens), text, effect.last)
            self.do(self.door.text_event(told, self.now))
        return self

    def steps(self) -> list[Activation]:
        found = [
            e.activation
            for e in self.effects
            if isinstance(e, Transmit) and e.activation.header.kind in WORK
        ]
        self.effects = [
            e for e in self.effects if not (isinstance(e, Transmit) and e.activation in found)
        ]
        return found

    def step(self) -> Activation:
        (only,) = self.steps()
        return only

    def drawn(self, step: Activation, *tokens: int) -> Desk2:
        """The head answers a step."""
        data = np.array(tokens or [-1] * len(step.header.rows), "<i8")
        done = replace(step.header, kind="done", source="s1", target="door")
        tensor = Tensor(TOKENS, "int64", data.shape, data.tobytes())
        return self.do(self.door.done(Activation(done, (tensor,)), self.now))

    def stale(self, step: Activation, *have: Row) -> Desk2:
        return self.do(self.door.broke(replace(step.header, kind="stale", rows=have), self.now))

    def lost(self, step: Activation) -> Desk2:
        return self.do(self.door.broke(replace(step.header, kind="lost"), self.now))

    def partials(self) -> list[Partial]:
        return [e.partial for e in self.effects if isinstance(e, PublishPartial)]

    def completions(self) -> list[Completion]:
        replies = [e.reply for e in self.effects if isinstance(e, PublishReply)]
        return [reply.completion for reply in replies if reply.completion is not None]


def ticking(desk: Desk, seconds: float) -> Sequence[str]:
    """Time goes by as in a node that does not stand still; the errors told by then."""
    for _ in range(round(seconds * 10)):
        desk.wait(0.1)
    return desk.codes()


def fed(step: Activation) -> list[int]:
    return [int(token) for token in np.frombuffer(step.tensors[0].data, "<i8")]


def places(step: Activation) -> list[tuple[int, int]]:
    return [(row.position, row.tokens) for row in step.header.rows]


def pass_on(desk: Desk2, token: int = 40) -> None:
    """What is in the chain comes through it."""
    for step in desk.steps():
        draws = [how is not None for how in step.header.sampling]
        desk.drawn(step, *(token if drawn else -1 for drawn in draws)).retain()


def records_of(desk: Desk2) -> list[Redelivery]:
    return [e.record for e in desk.effects if isinstance(e, WriteRecord)]


def headers(effects: Effects, kind: str) -> list[Header]:
    sent = [e.activation.header for e in effects if isinstance(e, Transmit)]
    return [header for header in sent if header.kind == kind]


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


def test_a_long_prompt_comes_in_pieces_and_only_the_last_is_sampled() -> None:
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
        ((0, PIECE_TOKENS), False),
        ((PIECE_TOKENS, PIECE_TOKENS), False),
        ((2 * PIECE_TOKENS, 540 - 2 * PIECE_TOKENS), True),
    ]
    # The head owes a token behind the last piece.
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


def started(desk: Desk2, many: int) -> list[Activation]:
    """So many sessions that have their first token; what is in the chain then."""
    inputs = [asking(n, prompt=[50 + n, 9], max_tokens=500) for n in range(1, many + 1)]
    desk.give(*inputs)
    chain = desk.steps()
    while sum(len(step.header.rows) for step in chain if step.header.kind == "decode") < many:
        step = next((s for s in chain if s.header.kind == "prefill"), chain[0])
        chain.remove(step)
        desk.drawn(step, *([40] * len(step.header.rows)))
        chain += desk.steps()
    return chain


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
    assert fed(desk.step()) == [52]
    (failure,) = [reply.failure for reply in desk.replies() if reply.failure]
    assert failure.code == "invalid_input"
    assert "kv_mib_max" in failure.message


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


def test_a_cache_that_is_to_be_used_again_is_dropped_last() -> None:
    # Each is allotted 64 positions; the fourth 256, which are all there is room for.
    desk = Desk2(kv_mib_max=1)
    for number, first in enumerate((5, 6, 7), 1):
        desk.give(asking(number, prompt=[first, 1, 2], max_tokens=1))
        desk.drawn(desk.step(), 40).write().take()
    desk.give(asking(4, prompt=[5, 1, 2, 9], max_tokens=250))
    assert places(desk.step()) == [(3, 1)]


def test_a_cache_counts_as_what_it_once_held() -> None:
    desk = Desk2(kv_mib_max=1)
    desk.give(asking(1, prompt=[5] * 250, max_tokens=1))
    desk.drawn(desk.step(), 40).write().take()
    desk.give(asking(2, prompt=[5, 9], max_tokens=1), asking(3, device="b", prompt=[7]))
    assert [fed(step) for step in desk.steps()] == [[9]], "both at once are more than the bound"


# --- evidence ---------------------------------------------------------------------------------


def test_a_segment_that_lacks_positions_is_fed_them_and_the_text_goes_on() -> None:
    desk = Desk2().give(asking(1, prompt=[5, 6, 7]))
    assert isinstance(desk, Desk2)
    desk.drawn(desk.step(), 40)
    step = desk.step()
    desk.stale(step, Row(step.header.rows[0].session, 1, 0))
    again = desk.step()
    assert (places(again), fed(again)) == ([(1, 3)], [6, 7, 40])
    assert again.header.request != step.header.request
    desk.drawn(step, 99)  # the old step's answer, too late
    desk.drawn(again, 41)
    assert fed(desk.step()) == [41]


def test_only_those_who_lack_positions_go_back() -> None:
    desk = Desk2()
    first, _ = started(desk, 4)
    short, *others = [row.session for row in first.header.rows]
    desk.stale(first, Row(short, 0, 0))
    later = {row.session: row for step in desk.steps() for row in step.header.rows}
    assert later[short].position == 0
    assert all(later[name].position > 0 for name in others if name in later)


def test_a_lost_step_runs_again_and_not_for_ever() -> None:
    desk = Desk2().give(asking(1))
    assert isinstance(desk, Desk2)
    tries = 0
    while steps := desk.steps():
        tries += 1
        desk.lost(steps[0])
    assert tries == 5
    assert desk.codes() == ["unavailable"]


def test_a_node_that_left_the_table_is_asked_later_and_later() -> None:
    desk = Desk2().give(asking(1))
    assert isinstance(desk, Desk2)
    for wait in (0.2, 0.4, 0.8):
        desk.stale(desk.step())
        assert desk.wait(wait - 0.01).sent("prefill") == []
        desk.wait(0.02)
    assert desk.codes() == []


def test_of_several_in_a_failed_step_only_the_one_at_fault_ends() -> None:
    desk = Desk2()
    first, second = started(desk, 4)
    rows = first.header.rows
    assert len(rows) == 2
    failure = Failure("model_failed", "it raised")
    desk.do(desk.door.done(Activation(replace(first.header, kind="done", failure=failure)), 0))
    alone = [step for step in desk.steps() if len(step.header.rows) == 1]
    assert alone[0].header.rows[0].session in {row.session for row in rows}
    desk.do(desk.door.done(Activation(replace(alone[0].header, kind="done", failure=failure)), 0))
    assert desk.codes() == ["model_failed"]
    desk.drawn(second, 41, 41)
    assert desk.codes() == ["model_failed"]


def test_after_a_death_each_runs_alone_until_it_has_passed() -> None:
    desk = Desk2()
    first, second = started(desk, 4)
    desk.hear(("b", "b2"))
    assert desk.steps() == []
    desk.serve(ON_C).retain()
    for _ in range(4):
        step = desk.step()
        assert len(step.header.rows) == 1, "a suspect had company"
        desk.drawn(step, 41).retain()
    steps = desk.steps()
    assert sum(len(step.header.rows) for step in steps) == 4
    assert {first.header.stamp, second.header.stamp} == {ON_B.stamp}
    assert all(step.header.stamp == ON_C.stamp for step in steps)
    # That each ran alone is retained no more: they were not at fault.
    assert desk.records() == ["0+", "0"] * 4


def test_a_session_that_ends_three_nodes_is_poison() -> None:
    desk = Desk2().give(asking(1))
    assert isinstance(desk, Desk2)
    for life, table in enumerate((ON_C, ON_B, ON_C), start=2):
        desk.step()
        member = "b" if table is ON_C else "c"
        desk.hear((member, f"{member}{life}"))
        fresh = ("c", f"c{life}") if table is ON_C else ("b", f"b{life}")
        desk.hear(fresh)
        desk.serve(make_table((A, (0, 3)), (fresh, (3, 6)), epoch=life)).retain()
    assert desk.codes() == ["poison"]


def test_a_prompt_whose_second_piece_ends_nodes_is_poison_however_often_its_first_passes() -> None:
    desk = Desk2().give(asking(1, prompt=[5] * 600))
    assert isinstance(desk, Desk2)
    deaths = 0
    for life in range(2, 12):
        for step in desk.steps():
            desk.drawn(step)  # the first piece passes
        if desk.codes():
            break
        assert places(desk.step()) == [(PIECE_TOKENS, PIECE_TOKENS)]
        deaths += 1
        fresh = ("b", f"b{life}")
        desk.hear(fresh).serve(make_table((A, (0, 3)), (fresh, (3, 6)), epoch=life)).retain()
        for step in desk.steps():
            desk.stale(step, Row(step.header.rows[0].session, 0, 0)).retain()
    assert (deaths, desk.codes()) == (3, ["poison"])


@pytest.mark.parametrize("passes", [1, 2, 5, 20])
def test_an_input_that_ends_its_door_after_some_steps_is_found(passes: int) -> None:
    """Each door knows of the one before only what that has retained."""
    given = asking(1, prompt=[5] * 300, max_tokens=600, duplicate=True)
    record: Redelivery | None = None
    for life in range(1, 10):
        desk = Desk2(door=("a", f"a{life}"))
        if record is not None:
            desk.do(desk.door.record_found(record, 0.0))
        desk.give(given).retain()
        if desk.codes():
            break
        for _ in range(passes):
            pass_on(desk)
        record = records_of(desk)[-1]
    assert desk.codes() == ["poison"]
    assert life <= 6


def test_of_several_that_were_redelivered_one_is_retained_as_in_the_chain() -> None:
    desk = Desk2().give(*(asking(n, prompt=[5] * 300, duplicate=True) for n in (1, 2, 3)))
    assert isinstance(desk, Desk2)
    for done in (0, 1, 2):
        for _ in range(2):
            newest = {record.key: record for record in records_of(desk)}
            in_chain = [key for key, record in newest.items() if record.door]
            assert in_chain == [asking(done + 1).key], (
                "a death would be counted of what did not run"
            )
            desk.retain()
            pass_on(desk, END)
        desk.write().take()
    assert desk.codes() == ["ok"] * 3


def test_a_redelivered_input_is_recorded_before_it_runs_as_a_higher_take() -> None:
    desk = Desk2().give(asking(1, duplicate=True))
    assert isinstance(desk, Desk2)
    assert desk.steps() == []
    assert [e.record.door for e in desk.effects if isinstance(e, WriteRecord)] == ["a1"]
    take = desk.retain().step().header.rows[0].take  # type: ignore[attr-defined]
    later = Desk2(ON_C).give(asking(1, duplicate=True)).retain()
    assert later.step().header.rows[0].take > take  # type: ignore[attr-defined]


# --- another model ---------------------------------------------------------------------------

OTHER = replace(GRAPH, digest="m2", vocabulary=Vocabulary(1000, 100, (9,)))


def test_with_another_model_what_was_told_ends_and_the_rest_is_read_anew() -> None:
    desk = Desk2().give(asking(1, stream=True), asking(2), asking(3))
    assert isinstance(desk, Desk2)
    for step in desk.steps():
        desk.drawn(step, *([40] * len(step.header.rows)))
    desk.write().effects.clear()
    desk.do(desk.door.model_is(None, desk.now))
    assert desk.codes() == ["unavailable"]
    desk.do(desk.door.model_is(OTHER, desk.now))
    assert desk.steps() == [], "fed to a chain of the model before"
    desk.serve(make_table((A, (0, 3)), (B, (3, 6)), epoch=2, digest="m2"))
    again = desk.steps()
    assert sorted(token for step in again for token in fed(step)) == [52, 53]
    assert {place for step in again for place in places(step)} == {(0, 1)}
    for step in again:
        desk.drawn(step, 9)  # the end of a text, by now
    assert [c.tokens for c in desk.write().completions()] == [(), ()]


def test_a_model_that_is_described_again_changes_nothing() -> None:
    desk = Desk2().give(asking(1))
    assert isinstance(desk, Desk2)
    step = desk.step()
    desk.do(desk.door.model_is(replace(GRAPH), desk.now))
    assert fed(desk.drawn(step, 40).step()) == [40]


def test_takes_stay_below_what_a_header_carries_whatever_the_epoch() -> None:
    newest = 2 * EPOCH_MAX - 1  # the most that a table may say
    desk = Desk2(make_table((A, (0, 3)), (B, (3, 6)), epoch=newest)).give(asking(1))
    assert isinstance(desk, Desk2)
    (row,) = desk.step().header.rows
    assert newest * TAKES < row.take < NUMBER_MAX
    assert (newest + 1) * TAKES <= NUMBER_MAX


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
    assert ticking(desk, 0.2) == ["cancelled"]


def test_a_door_that_hears_nobody_gives_nobody_up() -> None:
    desk = Desk2().give(asking(1, alive_s=2))
    assert isinstance(desk, Desk2)
    desk.door.hearing(hears=False)
    assert ticking(desk, 3.0) == []
    desk.door.hearing(hears=True)
    # The device may need a while to be back, and then has to speak again.
    assert ticking(desk, 2.0 + BACK_S - 0.2) == []
    assert ticking(desk, 0.3) == ["cancelled"]


def test_a_door_that_stood_still_hears_first_what_was_said_meanwhile() -> None:
    desk = Desk2().give(asking(1, alive_s=2))
    ticking(desk, 1.0)
    assert desk.wait(5.0).codes() == []  # in one tick
    desk.door.device_spoke("cam", desk.now)
    assert ticking(desk, 1.9) == []
    assert ticking(desk, 0.2) == ["cancelled"]


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
