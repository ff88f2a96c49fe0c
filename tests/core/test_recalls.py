"""A new door asks what the one before had drawn of a text, and goes on behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core.effects import Transmit
from dsi_mqtt.core.generation import rolling_hash
from dsi_mqtt.core.message import Header
from dsi_mqtt.core.recalls import AGAIN_S, PATIENCE_S
from dsi_mqtt.core.table import Table
from tests.core.build import A, C, make_table
from tests.core.desk_generation import (
    END,
    ON_B,
    ON_C,
    Desk2,
    asking,
    fed,
    pass_on,
    places,
)
from tests.core.harness import Site
from tests.core.harness_generation import GeneratingClient
from tests.core.harness_maker import UNITS
from tests.core.test_generation_chain import EndlessNode, heard, own_runs


def desk(*told: int, first: int = 3) -> Desk2:
    made = Desk2(ON_C)
    made.remembered = first, told
    return made


def give(made: Desk2, **ask: Any) -> Desk2:
    made.give(asking(1, prompt=[7, 8, 9], duplicate=True, **ask)).retain()
    return made


def questions(made: Desk2) -> list[tuple[str, Header]]:
    sent = [(e.receiver, e.activation.header) for e in made.effects if isinstance(e, Transmit)]
    return [(node, header) for node, header in sent if header.recall and not header.rows]


def tellings(made: Desk2) -> list[tuple[str, int, list[int]]]:
    sent = [e for e in made.effects if isinstance(e, Transmit) and e.activation.tensors]
    return [
        (e.receiver, e.activation.header.rows[0].position, fed(e.activation))
        for e in sent
        if e.activation.header.recall
    ]


def test_what_was_drawn_is_fed_with_the_prompt_in_one_step() -> None:
    made = give(desk(40, 41))
    step = made.step()
    assert (step.header.kind, fed(step), places(step)) == ("prefill", [7, 8, 9, 40, 41], [(0, 5)])
    pass_on(made.drawn(step, 42).write(), END)
    (completion,) = made.write().completions()
    assert completion.tokens == (40, 41, 42)
    assert completion.hash == rolling_hash("", (40, 41, 42))


def test_a_stream_is_told_at_once_what_was_told_before() -> None:
    made = give(desk(40, 41), stream=True)
    (partial,) = made.write().partials()
    assert (partial.index, partial.tokens, partial.text) == (0, (40, 41), " 40 41")
    step = made.step()
    assert step.header.rows[0].take == partial.take, "one telling has two takes"


def test_its_take_is_higher_than_that_of_the_door_before() -> None:
    first = Desk2(ON_B).give(asking(1, prompt=[7, 8, 9]))
    assert isinstance(first, Desk2)
    assert give(desk(40)).step().header.rows[0].take > first.step().header.rows[0].take


def test_both_doors_ask_for_the_text_by_one_name() -> None:
    first = Desk2(ON_B).give(asking(1, prompt=[7, 8, 9]))
    assert isinstance(first, Desk2)
    (how,) = first.step().header.sampling
    made = give(Desk2(ON_C))
    assert how is not None
    assert {header.recall for _, header in questions(made)} == {how.text}
    assert [node for node, _ in questions(made)] == ["a", "c"]
    other = Desk2(ON_C).give(asking(1, prompt=[7, 8], duplicate=True))
    assert isinstance(other, Desk2)
    assert {header.recall for _, header in questions(other)} != {how.text}


@pytest.mark.parametrize(
    ("told", "max_tokens", "text", "finish"),
    [((40, END), 9, (40,), "stop"), ((40, 41, 42), 2, (40, 41), "length")],
)
def test_a_text_that_had_come_to_its_end_is_answered_without_a_step(
    told: Sequence[int], max_tokens: int, text: tuple[int, ...], finish: str
) -> None:
    made = give(desk(*told), max_tokens=max_tokens).write()
    assert made.steps() == []
    (completion,) = made.completions()
    assert (completion.tokens, completion.finish_reason) == (text, finish)
    assert made.take().acknowledged() == [1]
    assert made.door.idle


def test_a_stop_string_counts_in_what_was_told() -> None:
    made = give(desk(40, 41), stop=["0 4"]).write()
    assert [(c.text, c.finish_reason) for c in made.completions()] == [(" 4", "stop")]


@pytest.mark.parametrize(
    ("first", "told"), [(4, (41, 42)), (2, (40,)), (3, (40, 100)), (3, (-1,)), (0, ())]
)
def test_what_does_not_follow_the_prompt_or_is_no_token_counts_for_nothing(
    first: int, told: Sequence[int]
) -> None:
    assert fed(give(desk(*told, first=first)).step()) == [7, 8, 9]


def test_the_longest_answer_counts_and_none_is_waited_for_longer_than_a_moment() -> None:
    made = Desk2(ON_C)
    made.remembered = None
    (of_a, of_c) = (header for _, header in questions(give(made)))
    assert made.steps() == []
    for question, tokens in ((of_a, (40,)), (of_c, (40, 41))):
        made.retain()
        assert made.steps() == []
        made.remembered = 3, tokens
        made._remember(question)
    made.retain()
    assert fed(made.step()) == [7, 8, 9, 40, 41]
    silent = Desk2(ON_C)
    silent.remembered = None
    give(silent).wait(PATIENCE_S / 2)
    assert silent.steps() == []
    silent.wait(PATIENCE_S / 2)
    silent.retain()
    assert fed(silent.step()) == [7, 8, 9]


def test_who_does_not_answer_may_not_have_the_table_yet_and_is_asked_again() -> None:
    made = Desk2(ON_C)
    made.remembered = None
    (of_a, _) = (header for _, header in questions(give(made)))
    made.remembered = 3, ()
    made._remember(of_a)
    made.effects.clear()
    made.remembered = 3, (40,)
    made.wait(AGAIN_S)
    assert [node for node, _ in questions(made)] == ["c"]
    made.retain()
    assert fed(made.step()) == [7, 8, 9, 40]


def test_an_answer_behind_its_time_or_its_end_changes_nothing() -> None:
    made = Desk2(ON_C)
    made.remembered = None
    (question, *_) = (header for _, header in questions(give(made)))
    made.wait(PATIENCE_S).retain()
    step = made.step()
    made.remembered = 3, (40, 41)
    made._remember(question)
    assert fed(made.drawn(step, 50).step()) == [50]
    ended = Desk2(ON_C)
    ended.remembered = None
    (question, *_) = (header for _, header in questions(give(ended)))
    ended.do(ended.door.cancelled(asking(1).key, ended.now)).take()
    ended.remembered = 3, (40, 41)
    ended._remember(question)
    ended.wait(PATIENCE_S)
    assert ended.steps() == []
    assert ended.door.idle


def test_nobody_is_asked_before_a_table_serves() -> None:
    made = Desk2(replace(ON_B, state="unavailable", segments=(), hops=()))
    made.remembered = 3, (40,)
    give(made)
    assert questions(made) == []
    made.serve(make_table((A, (0, 3)), (C, (3, 6)), epoch=3)).retain()
    assert fed(made.step()) == [7, 8, 9, 40]


def test_what_comes_for_the_first_time_asks_nobody() -> None:
    made = Desk2().give(asking(1))
    assert isinstance(made, Desk2)
    assert questions(made) == []


def test_a_head_that_is_new_to_a_text_is_told_what_was_drawn_of_it() -> None:
    made = Desk2().give(asking(1, prompt=[7, 8, 9], max_tokens=9))
    assert isinstance(made, Desk2)
    for token in (40, 41):
        made.drawn(made.step(), token)
    step = made.step()
    assert tellings(made) == []
    made.serve(ON_C)
    made.drawn(step, 42)
    assert tellings(made) == [("c", 3, [40, 41, 42])]
    pass_on(made)
    assert len(tellings(made)) == 1, "it knows"


def test_a_door_that_was_told_tells_the_head_what_others_know() -> None:
    assert tellings(give(desk(40, 41))) == [("c", 3, [40, 41])]


# --- on a whole chain ---------------------------------------------------------------------------


class CountingNode(EndlessNode):
    """drawn: tokens."""

    drawn = 0

    def _computed(self, job: fx.Compute) -> None:
        if job.units.stop == UNITS:
            self.drawn += sum(how is not None for how in job.sampling)
        super()._computed(job)


def spread(seed: int) -> Site:
    """A site whose door's node does not draw the tokens."""
    site = Site(seed, node=CountingNode, client=GeneratingClient)

    def is_spread() -> bool:
        serve = site.serving
        if serve is None or serve.door is None or len(serve.segments) < 2:
            return False
        return serve.door.node != serve.segments[-1].replicas[0].node

    while not is_spread():
        site.maker.moving = True
        site.run(2.0)
    return site


def nodes_of(table: Table | None) -> set[str]:
    return {r.node for part in table.segments for r in part.replicas} if table else set()


def door_of(site: Site) -> CountingNode:
    """Who has the one text."""
    (found,) = (
        node
        for node in site.alive()
        for door in node.machine._doors.values()
        if own_runs(door)._sessions
    )
    assert isinstance(found, CountingNode)
    return found


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_text_whose_door_dies_is_drawn_once(seed: int, *, moves: bool) -> None:
    site = spread(seed)
    client = site.client
    assert isinstance(client, GeneratingClient)
    id_ = client.ask("w1 w2", max_tokens=120)
    if moves:
        assert site.run_until(lambda: len(heard(client, id_)) >= 20, 60.0)
        site.maker.moving = True
    assert site.run_until(lambda: len(heard(client, id_)) >= 60, 60.0)
    door = door_of(site)
    serve = site.serving
    (session,) = (s for d in door.machine._doors.values() for s in own_runs(d)._sessions.values())
    assert session.head is not None
    head, _ = session.head
    door.kill(will=True)
    site.run_until(lambda: site.serving is not serve, 2.0)  # unless it had no part any more
    after = nodes_of(site.serving)
    if head not in after - {door.name}:
        return  # nobody knows what it drew
    assert site.run_until(lambda: client.settled, 130.0)
    assert len(client.tellings[id_]) >= 2, "the door's death was not met"
    assert len(client.completed[id_][1]) == 120
    drawn = sum(node.drawn for node in site.nodes.values() if isinstance(node, CountingNode))
    assert drawn <= 120 + 2, "tokens were drawn again"
