"""A door whose deployment has a fallback: sessions of the one model and of the other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.deployment import FALLBACK_MARK
from dsi_mqtt.core.effects import ForgetText, PublishPartial, ReadPrompt, WriteText
from dsi_mqtt.core.events import PromptRead, TextWritten
from dsi_mqtt.core.message import Activation, Failure
from dsi_mqtt.core.model import ModelGraph, Unit, Vocabulary
from dsi_mqtt.core.table import ModelRef, Table
from dsi_mqtt.core.two_models import TwoModels
from dsi_mqtt.wire.asks import read_ask
from tests.core.build import NAME, A, B, C, make_input, make_table
from tests.core.desk_generation import Desk2, asking, fed, headers, pass_on, ticking

OTHER = NAME + FALLBACK_MARK
SMALL = ModelGraph(
    "m2",
    "fake",
    tuple(Unit(f"s{i}", 10, 1.0, 4, 16) for i in range(2)),
    vocabulary=Vocabulary(20, 100, (2,)),
)


def own(epoch: int) -> Table:
    return make_table((A, (0, 3)), (B, (3, 6)), epoch=epoch)


def fallback(epoch: int, *, on: tuple[str, str] = C) -> Table:
    table = make_table((on, (0, 2)), epoch=epoch, digest="m2")
    return replace(table, state="fallback", model=ModelRef("m2", 2, "fake", fallback=True))


def gone(epoch: int) -> Table:
    table = replace(own(epoch), state="unavailable", reason="no room", model=None)
    return replace(table, segments=(), hops=())


def desk(table: Table | None = None) -> Desk2:
    """Both models are open at the door."""
    made = Desk2(table or own(1))
    made.do(made.door.model_is(SMALL, made.now, fallback=True))
    return made


def pass_all(made: Desk2, token: int = 40) -> Desk2:
    """One step of everything that is in the chain, and its texts."""
    pass_on(made, token)
    return made.write()


def falls(made: Desk2) -> Desk2:
    """The own chain has broken for good."""
    made.serve(gone(2))
    made.serve(fallback(3))
    return made


def runs(made: Desk2) -> TwoModels:
    assert isinstance(made.door._runs, TwoModels)
    return made.door._runs


def names(steps: list[Activation]) -> list[str]:
    return [step.header.deployment for step in steps]


def test_what_comes_while_the_fallback_serves_runs_there_and_says_so() -> None:
    made = falls(desk()).give(asking(1, max_tokens=2, stream=True))
    assert isinstance(made, Desk2)
    step = made.step()
    assert (step.header.deployment, step.header.stamp.epoch) == (OTHER, 3)
    pass_all(made.drawn(step, 40).write())
    assert {partial.fallback for partial in made.partials()} == {True}
    (completion,) = made.completions()
    assert completion.fallback
    assert completion.tokens == (40, 40)
    (reply,) = made.replies()
    assert reply.fallback
    spoken = [e for e in made.effects if isinstance(e, ForgetText | WriteText)]
    assert {e.deployment for e in spoken} <= {OTHER}
    assert {e.deployment for e in made.effects if isinstance(e, PublishPartial)} == {NAME}


def test_answers_of_the_own_model_bear_no_mark() -> None:
    made = desk().give(asking(1, max_tokens=1, stream=True))
    assert isinstance(made, Desk2)
    pass_all(made)
    assert not any(partial.fallback for partial in made.partials())
    assert [(c.fallback, c.tokens) for c in made.completions()] == [(False, (40,))]


def test_of_a_broken_chain_who_was_told_nothing_begins_anew_on_the_fallback() -> None:
    made = desk().give(asking(1, max_tokens=3, prompt=[51, 52]))
    assert isinstance(made, Desk2)
    pass_all(made)
    take = made.steps()[0].header.rows[0].take
    falls(made)
    step = made.step()
    assert (step.header.deployment, fed(step)) == (OTHER, [51, 52])
    assert step.header.rows[0].position == 0
    assert step.header.rows[0].take > take
    made.drawn(step, 7)
    pass_all(pass_all(made, 7), 7)
    assert [(c.tokens, c.fallback) for c in made.write().completions()] == [((7, 7, 7), True)]


def test_of_a_broken_chain_who_was_told_a_part_ends_and_may_ask_again() -> None:
    made = desk().give(asking(1, stream=True))
    assert isinstance(made, Desk2)
    pass_all(made)
    assert made.partials()
    made.serve(gone(2))
    assert made.codes() == [], "its own model may be there again"
    made.serve(fallback(3))
    assert made.codes() == ["unavailable"]
    assert not [s for s in made.steps() if s.header.deployment == OTHER]


def test_a_text_that_is_complete_is_told_although_its_chain_has_gone() -> None:
    made = desk().give(asking(1, max_tokens=1))
    assert isinstance(made, Desk2)
    made.drawn(made.step(), 40)
    falls(made).write()
    assert [(c.tokens, c.fallback) for c in made.completions()] == [((40,), False)]


def test_what_runs_on_the_fallback_ends_there_when_the_own_model_serves_again() -> None:
    made = falls(desk()).give(asking(1, max_tokens=3, stream=True))
    assert isinstance(made, Desk2)
    made.drawn(made.step(), 40).write()
    made.serve(own(4))
    assert made.door.oldest().epoch == 3, "its nodes are to keep their parts"
    made.give(asking(2, max_tokens=3))
    steps = made.steps()
    assert sorted((s.header.deployment, s.header.stamp.epoch) for s in steps) == [
        (NAME, 4),
        (OTHER, 3),
    ]
    for step in steps:
        made.drawn(step, 40)
    for _ in range(3):
        pass_all(made)
    told = {(c.tokens, c.fallback) for c in made.completions()}
    assert told == {((40, 40, 40), True), ((40, 40, 40), False)}
    made.wait(0.1)
    assert made.door.oldest().epoch == 4


def test_what_has_not_begun_on_the_fallback_begins_on_the_own_model() -> None:
    made = Desk2(own(1), sessions_max=1)
    made.do(made.door.model_is(SMALL, made.now, fallback=True))
    falls(made).give(asking(1, max_tokens=3), asking(2, max_tokens=3))
    first = made.step()
    made.serve(own(4))
    second = made.step()
    assert (first.header.deployment, fed(first)) == (OTHER, [51])
    assert (second.header.deployment, fed(second)) == (NAME, [52])


@pytest.mark.parametrize(("stream", "codes"), [(True, ["unavailable"]), (False, [])])
def test_where_the_fallback_breaks_behind_the_own_model_its_sessions_go_over(
    *, stream: bool, codes: list[str]
) -> None:
    made = falls(desk()).give(asking(1, max_tokens=3, stream=stream))
    assert isinstance(made, Desk2)
    made.drawn(made.step(), 40).write()
    made.serve(own(4)).look()
    made.hear(C, "offline").retain()  # a node died with it, so it is a suspect
    assert made.codes() == codes
    assert names(made.steps()) == ([] if stream else [NAME])
    assert made.door.oldest().epoch == 4


def test_a_fallback_that_is_placed_anew_goes_on_with_its_sessions() -> None:
    made = falls(desk()).give(asking(1, max_tokens=3, stream=True, prompt=[51, 52]))
    assert isinstance(made, Desk2)
    made.drawn(made.step(), 40).write()
    lost = made.step()
    made.hear(C, "offline")
    made.serve(gone(4)).serve(fallback(5, on=B))
    ticking(made, 0.3)
    made.retain()
    step = made.steps()[-1]
    assert (step.header.deployment, step.header.stamp.epoch) == (OTHER, 5)
    assert step.header.rows[0].take == lost.header.rows[0].take
    assert made.codes() == []


def test_where_the_fallback_makes_room_first_its_sessions_go_over_when_the_own_model_serves() -> (
    None
):
    made = falls(desk()).give(asking(1, max_tokens=3, stream=True), asking(2, max_tokens=3))
    assert isinstance(made, Desk2)
    pass_all(made)
    made.serve(gone(4)).look()
    assert made.door.oldest().epoch < 4, "what is in the chain may still come"
    pass_on(made)
    made.serve(own(5))
    assert made.codes() == ["unavailable"]
    assert [(s.header.deployment, fed(s)) for s in made.steps()] == [(NAME, [52])]


def test_rolls_name_to_the_nodes_of_a_model_only_what_is_of_it() -> None:
    made = falls(desk()).give(asking(1, max_tokens=50))
    assert isinstance(made, Desk2)
    made.drawn(made.step(), 40)
    made.serve(own(4)).give(asking(2, max_tokens=50))
    made.wait(1.1)
    told = {h.deployment: {row.session for row in h.rows} for h in headers(made.effects, "state")}
    assert {len(sessions) for sessions in told.values()} == {1}
    assert told[NAME] != told[OTHER]


def test_caches_kept_of_the_fallback_are_none_for_the_own_model() -> None:
    made = falls(desk()).give(asking(1, max_tokens=2, prompt=[51, 52]))
    assert isinstance(made, Desk2)
    made.drawn(made.step(), 40)
    pass_all(made).take()
    made.serve(own(4)).give(asking(2, prompt=[51, 52, 40, 53]))
    assert [(s.header.deployment, fed(s)) for s in made.steps()] == [(NAME, [51, 52, 40, 53])]


def test_what_a_former_model_still_says_of_a_text_is_no_matter() -> None:
    made = desk()
    given = asking(1)
    effects = made.door.input_arrived(given, made.now)
    (asked,) = [e for e in effects if isinstance(e, ReadPrompt)]
    ask = read_ask(asked.parsed.body, asked.limits)
    falls(made)
    assert names(made.steps()) == [OTHER]
    made.do(made.door.text_event(PromptRead(NAME, asked.request, ask, (99,)), made.now))
    made.do(made.door.text_event(TextWritten(NAME, asked.request, 1, "no", True), made.now))
    assert made.steps() == []
    assert made.replies() == []


def test_a_prompt_that_is_too_long_for_the_fallback_alone_may_be_sent_again() -> None:
    made = falls(desk()).give(asking(1, prompt=list(range(30, 60))))
    (reply,) = made.replies()
    assert reply.failure is not None
    assert reply.failure.code == "unavailable"
    assert "30 tokens" in reply.failure.message
    assert "fallback" in reply.failure.message


def test_a_cancel_and_an_undeployment_reach_sessions_of_both() -> None:
    made = falls(desk()).give(asking(1, max_tokens=50), asking(2, max_tokens=50))
    assert isinstance(made, Desk2)
    made.serve(own(4)).give(asking(3, max_tokens=50))
    made.do(made.door.cancelled(make_input(1).key, made.now))
    assert made.codes() == ["cancelled"]
    made.do(made.door.refuse_all(Failure("unavailable", "removed"), made.now))
    assert made.codes() == ["cancelled", "unavailable", "unavailable"]
    assert not [s for s in runs(made)._both if s._sessions]
