"""One door makes way for another: no input waits for that, none is lost or answered twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.hand_over import CHOSEN_MAX, KNOWN_MAX, HandOver, as_input, passed_on
from dsi_mqtt.core.message import Activation, Passed
from dsi_mqtt.core.peers import Peers
from dsi_mqtt.core.request import Input, Reply
from dsi_mqtt.core.table import Gone, Stamp, Table
from tests.core.build import NAME, A, B, C, make_input, make_status, make_table
from tests.core.desk import Desk
from tests.core.harness import Site
from tests.core.harness_broker import SimClient
from tests.core.harness_maker import TableMaker
from tests.core.test_chain import check_answers, check_rest, check_step, come_to_rest
from tests.core.test_worker import DOOR_HERE, Node, of
from tests.thoroughness import examples

ON_A = make_table((B, (0, 6)), epoch=1, door=A)
ON_C = make_table((B, (0, 6)), epoch=2, door=C)
STAMP = Stamp(1, "leader", 2)


def leaving(*, spoke: bool = True) -> Desk:
    """The door on a, while the one on c is named."""
    desk = Desk(ON_A)
    if spoke:
        desk.peers.heard(make_status(C, oldest=STAMP))
    desk.do(desk.door.replaced(ON_C, desk.now))
    return desk


def passed(desk: Desk) -> list[Activation]:
    found = [e for e in desk.effects if isinstance(e, fx.Transmit)]
    return [e.activation for e in found if e.activation.header.kind == "input"]


def copy_of(asked: Input) -> Activation:
    (sent,) = passed_on(asked, NAME, ON_C, "a")
    assert isinstance(sent, fx.Transmit)
    return sent.activation


# --- the door before --------------------------------------------------------------------------


def test_it_goes_on_until_the_next_one_has_spoken() -> None:
    desk = leaving(spoke=False).give(make_input(1))
    (header,) = desk.sent()
    assert header.stamp == ON_C.stamp
    desk.peers.heard(make_status(C, oldest=STAMP))
    desk.give(make_input(2))
    assert desk.sent() == []
    (activation,) = passed(desk)
    assert activation.header.passed is not None
    assert activation.header.passed.correlation == make_input(2).correlation
    assert not desk.door.lets_go, "it holds the first"
    desk.done(header).take()
    assert desk.acknowledged() == [1], "the second is the next door's"
    assert desk.door.lets_go


def test_another_incarnation_of_the_next_door_is_not_the_one_named() -> None:
    desk = leaving(spoke=False)
    desk.peers.heard(make_status(("c", "c0"), oldest=STAMP))
    assert passed(desk.give(make_input(1))) == []
    assert not desk.door.idle


def test_what_it_knows_it_answers_itself() -> None:
    desk = Desk(ON_A).give(make_input(1))
    (header,) = desk.sent()
    desk.peers.heard(make_status(C, oldest=STAMP))
    desk.do(desk.door.replaced(ON_C, desk.now))
    desk.give(make_input(1, receipt=2))
    desk.done(header).take().look()
    desk.give(make_input(1, receipt=3))
    assert passed(desk) == []
    assert desk.take().acknowledged() == [3]


def test_what_it_refuses_is_refused_here() -> None:
    desk = leaving().give(replace(make_input(1), retained=True))
    assert desk.codes() == ["invalid_input"]
    assert passed(desk) == []


def test_what_a_device_was_told_is_cancelled_stays_so() -> None:
    desk = leaving()
    desk.do(desk.door.cancelled(make_input(1).key, desk.now)).give(make_input(1))
    assert passed(desk) == []
    assert desk.codes() == ["cancelled"]


@pytest.mark.parametrize(
    "asked",
    [
        make_input(1, duplicate=True),
        replace(make_input(1), response_topic="t" * (CHOSEN_MAX + 1)),
    ],
)
def test_what_may_be_poison_and_what_does_not_fit_waits_for_the_ingress(asked: Input) -> None:
    desk = leaving().give(asked)
    assert desk.effects == []
    assert desk.door.idle


def test_what_is_more_than_its_share_of_the_ways_waits_for_the_ingress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsi_mqtt.core.hand_over.COPIES_MAX", 2 * make_input(1).nbytes - 1)
    desk = leaving().give(make_input(1), make_input(2))
    assert len(passed(desk)) == 1
    desk.do(desk.door.named(replace(ON_A, epoch=3), desk.now, before=C))
    assert len(desk.sent()) == 1, "named again, it runs that"


def test_named_again_it_runs_what_another_has_had_as_what_that_may_have_died_of() -> None:
    desk = leaving().give(make_input(1), make_input(2, duplicate=True))
    desk.peers.heard(make_status(C, "offline"))
    desk.do(desk.door.named(replace(ON_A, epoch=3), desk.now, before=C)).retain()
    assert desk.records() == ["0+"], "it runs alone"
    assert len(desk.sent()) == 1


def test_named_again_it_runs_what_one_has_had_that_fell_silent() -> None:
    """Its status, which is retained, goes on saying that it has the door."""
    desk = leaving().give(make_input(1), make_input(2, duplicate=True))
    back = replace(ON_A, epoch=3, gone=(Gone(*C),))
    desk.do(desk.door.named(back, desk.now, before=C)).retain()
    assert desk.records() == ["0+"], "it may have died of that, so it runs alone"
    assert len(desk.sent()) == 1


def test_what_waits_when_the_next_door_speaks_is_passed_on_too() -> None:
    desk = Desk(make_table((B, (0, 6)), epoch=1, door=A, window=1))
    desk.give(make_input(1), make_input(2))
    (header,) = desk.sent()
    table = make_table((B, (0, 6)), epoch=2, door=C, window=1)
    desk.do(desk.door.replaced(table, desk.now))
    assert passed(desk) == []
    desk.peers.heard(make_status(C, oldest=STAMP))
    desk.do(desk.door.replaced(table, desk.now))
    (activation,) = passed(desk)
    assert activation.header.passed is not None
    assert activation.header.passed.correlation == make_input(2).correlation
    desk.done(header).take()
    assert desk.acknowledged() == [1]
    assert desk.sent() == []
    assert desk.door.lets_go


def test_suspects_run_here_first_where_none_is_passed_on_yet() -> None:
    desk = Desk(ON_A).give(make_input(1))
    desk.hear(("b", "b2"))
    table = make_table((("b", "b2"), (0, 6)), epoch=2, door=C)
    desk.peers.heard(make_status(C, oldest=STAMP))
    desk.do(desk.door.replaced(table, desk.now)).retain().give(make_input(2))
    assert passed(desk) == []
    (_, again) = desk.sent()
    desk.done(again).take().give(make_input(3))
    assert len(passed(desk)) == 1
    assert desk.acknowledged() == [1]


def test_suspects_are_left_where_the_next_door_has_some_in_the_chain() -> None:
    desk = Desk(ON_A).give(make_input(1))
    desk.peers.heard(make_status(C, oldest=STAMP))
    desk.do(desk.door.replaced(ON_C, desk.now)).give(make_input(2))
    assert len(passed(desk)) == 1
    desk.look()
    desk.hear(("b", "b2"))  # the chain's one node has died
    desk.do(desk.door.replaced(ON_C, desk.now))
    assert desk.door.idle
    assert desk.replies() == []
    (activation,) = passed(desk)
    assert activation.header.passed is not None
    assert activation.header.passed.deaths == 0, "it stays a suspect"
    other = Desk(ON_C, door=C)
    other.do(other.door.input_passed_on(activation, other.now))
    assert other.records() == ["0+"]


def test_a_death_beside_what_was_passed_on_is_counted_for_nobody() -> None:
    desk = Desk(ON_A).give(make_input(1))
    desk.peers.heard(make_status(C, oldest=STAMP))
    desk.do(desk.door.replaced(ON_C, desk.now)).give(make_input(2)).look()
    desk.hear(("b", "b2"))
    desk.do(desk.door.replaced(ON_C, desk.now))
    assert "1" not in desk.records()
    assert "1+" not in desk.records()


def test_named_again_it_leaves_copies_to_whoever_runs_them() -> None:
    desk = leaving().give(make_input(1), make_input(2))
    copies = passed(desk)
    desk.do(desk.door.named(replace(ON_A, epoch=3), desk.now, before=C)).wait(0.05)
    assert desk.sent() == []
    desk.give(make_input(1, receipt=9))
    assert desk.sent() == [], "it is on its way"
    told = replace(copies[0].header, passed=None)
    desk.do(desk.door.input_passed_on(Activation(told), desk.now))
    assert desk.acknowledged() == [1, 9]
    desk.peers.heard(make_status(C))
    desk.wait(0.05)
    assert len(desk.sent()) == 1, "the other has ended its door without a word of the second"
    assert desk.records() == [], "it lives, so it has not died of that"


def test_all_deliveries_of_what_is_passed_on_are_acknowledged() -> None:
    desk = Desk(make_table((B, (0, 6)), epoch=1, door=A, window=1))
    desk.give(make_input(1), make_input(2), make_input(2, receipt=7))
    desk.peers.heard(make_status(C, oldest=STAMP))
    desk.do(desk.door.replaced(ON_C, desk.now))
    told = replace(passed(desk)[0].header, passed=None)
    desk.do(desk.door.input_passed_on(Activation(told), desk.now))
    assert desk.acknowledged() == [2, 7]


def test_equal_inputs_without_an_id_are_acknowledged_each_for_itself() -> None:
    desk = leaving().give(*(make_input(n, text="same", with_id=False) for n in (1, 2)))
    told = replace(passed(desk)[0].header, passed=None)
    desk.do(desk.door.input_passed_on(Activation(told), desk.now))
    assert desk.acknowledged() == [1]


def test_a_death_beside_copies_that_another_runs_is_counted_for_nobody() -> None:
    desk = leaving().give(make_input(1))
    desk.do(desk.door.named(replace(ON_A, epoch=3), desk.now, before=C)).give(make_input(2))
    desk.hear(("b", "b2"))
    assert not [r for r in desk.records() if r.startswith("1")]
    assert not any(request.deaths for request in desk.door._requests.values())


# --- the next door ----------------------------------------------------------------------------


def test_a_copy_is_run_and_the_input_itself_only_acknowledged() -> None:
    desk = Desk(ON_C, door=C)
    desk.do(desk.door.input_passed_on(copy_of(make_input(1)), desk.now))
    (header,) = desk.sent()
    desk.done(header).take()
    assert desk.codes() == ["ok"]
    assert desk.acknowledged() == []
    (told,) = passed(desk)
    assert (told.header.request, told.header.passed) == (make_input(1).request, None)
    desk.look()
    desk.give(make_input(1, receipt=7, duplicate=True))
    assert desk.effects == [fx.Acknowledge(NAME, 7)]
    assert desk.door.idle


def test_an_error_is_not_told_again_either() -> None:
    desk = Desk(ON_C, door=C)
    desk.do(desk.door.input_passed_on(copy_of(make_input(1)), desk.now)).wait(100.0).take()
    assert desk.codes() == ["deadline"]
    desk.look()
    desk.give(make_input(1, receipt=7, duplicate=True))
    assert desk.effects == [fx.Acknowledge(NAME, 7)]


def test_an_input_whose_copy_runs_is_acknowledged_with_its_answer() -> None:
    desk = Desk(ON_C, door=C)
    desk.do(desk.door.input_passed_on(copy_of(make_input(1)), desk.now))
    (header,) = desk.sent()
    desk.give(make_input(1, receipt=7, duplicate=True))
    assert desk.acknowledged() == []
    desk.done(header).take()
    assert (desk.codes(), desk.acknowledged()) == (["ok"], [7])


def test_a_device_that_asks_again_is_answered_again() -> None:
    desk = Desk(ON_C, door=C)
    desk.do(desk.door.input_passed_on(copy_of(make_input(1)), desk.now))
    desk.done(desk.sent()[0]).take().look()
    desk.give(make_input(1, receipt=7))
    assert desk.codes() == ["ok"]


def test_a_copy_that_comes_behind_its_input_is_dropped() -> None:
    desk = Desk(ON_C, door=C).give(make_input(1))
    desk.look()
    desk.do(desk.door.input_passed_on(copy_of(make_input(1)), desk.now))
    assert desk.effects == []


def test_a_door_with_its_ingress_open_takes_no_copies() -> None:
    node = Node()
    node.serve(DOOR_HERE)
    arrived = ev.ActivationArrived(copy_of(make_input(1)))
    assert of(node.on(arrived), fx.Transmit)
    node.on(ev.IngressOpened(NAME))
    assert not of(node.on(ev.ActivationArrived(copy_of(make_input(2)))), fx.Transmit)


def test_what_leaves_is_connected_before_the_ingress() -> None:
    node = Node()
    node.hear(make_status(B, oldest=Stamp(1, "leader", 0), ingress_open=True))
    effects = node.serve(DOOR_HERE)
    assert of(effects, fx.OpenAnswers)
    assert not of(effects, fx.OpenIngress)
    assert not of(node.serve(replace(DOOR_HERE, epoch=2)), fx.OpenAnswers)


def test_a_copy_runs_by_a_name_of_its_own_wherever_names_come_from() -> None:
    """The door before may have to run the input after all, and names may be counted."""
    asked = [replace(make_input(1), request=n.to_bytes(16, "big")) for n in (1, 2)]
    copies = [as_input(copy_of(each), number) for each in asked for number in (1, 2)]
    names = {given.request for given in copies if given is not None}
    assert len(names) == 4
    assert not names & {each.request for each in asked}
    assert {len(name) for name in names} == {16}


def test_what_is_no_copy_is_dropped() -> None:
    desk = Desk(ON_C, door=C)
    whole = copy_of(make_input(1))
    nothing = replace(whole, tensors=())
    nobodys = replace(whole, header=replace(whole.header, passed=None))
    desk.do(desk.door.input_passed_on(nothing, desk.now))
    desk.do(desk.door.input_passed_on(nobodys, desk.now))
    assert desk.effects == []


def test_suspects_wait_while_the_door_before_has_inputs_in_the_chain() -> None:
    desk = Desk(ON_C, door=C)
    desk.door.is_beside(another=True)
    desk.give(make_input(1, duplicate=True))
    desk.retain().wait(0.05)
    assert (desk.records(), desk.sent()) == ([], [])
    desk.door.is_beside(another=False)
    desk.wait(0.05).retain()
    assert len(desk.sent()) == 1


def test_what_is_known_of_copies_is_bounded() -> None:
    known = HandOver(NAME, A, Peers())
    asked = [replace(make_input(number), duplicate=True) for number in range(KNOWN_MAX + 1)]
    for each in asked:
        known.came(each.key, copy_of(each).header)
        known.answered(each.key, STAMP)
    assert [known.is_over(asked[0]), known.is_over(asked[1])] == [False, True]
    assert not known.is_over(asked[1]), "asked once of each"


# --- a site -----------------------------------------------------------------------------------


OPEN_S = 0.5


class DoorMaker(TableMaker):
    """The door moves, and nothing else."""

    def _draw(self) -> Table:
        drawn, before = super()._draw(), self.site.serving
        if before is None or not self._whole(before):
            return drawn
        door = before.door
        assert door is not None
        assert drawn.door is not None
        others = [name for name in sorted(self.alive) if name != door.node]
        node, incarnation = self._member(self.site.rng.choice(others or [door.node]))
        moved = replace(drawn.door, node=node, incarnation=incarnation)
        return replace(before, epoch=drawn.epoch, door=moved, state="preparing")


class Timed(SimClient):
    """With the times of results."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.came: list[float] = []

    def receive(self, reply: Reply) -> None:
        self.came.append(self.site.now)
        super().receive(reply)


def moved(seed: int, *, moves: int, client: type[SimClient] = Timed) -> Site:
    """A steady stream, during which the door moves each second; to connect takes long."""
    site = Site(seed, maker=DoorMaker, client=client)
    site.check = check_step
    site.broker.open_s = OPEN_S
    for number in range(20 * moves):
        if number % 20 == 10:
            site.maker.moving = True
        if number % 2:
            site.client.submit("input")
        else:
            site.client.submit_plain()
        site.run(0.05)
    return site


@pytest.mark.parametrize("seed", range(4))
def test_no_input_waits_while_the_door_moves(seed: int) -> None:
    site = moved(seed, moves=8)
    assert isinstance(site.client, Timed)
    assert site.broker.hand_overs >= 6
    assert site.broker.take_overs == 0
    assert max(b - a for a, b in pairwise(site.client.came)) < OPEN_S
    come_to_rest(site)
    check_answers(site)
    check_rest(site)
    answered = [*site.client.plain.values(), *(o.results for o in site.client.outcomes.values())]
    assert all(len(results) == 1 for results in answered), "something was answered twice"
    assert site.client.pending.resent == 0


@settings(max_examples=examples(40))
@given(
    seed=st.integers(0, 2**32),
    deaths=st.lists(
        st.tuples(st.floats(0.0, 0.3), st.sampled_from(["old", "new", "link"])), max_size=4
    ),
)
def test_whoever_dies_in_mid_hand_over_every_input_has_its_one_answer(
    seed: int, deaths: list[tuple[float, str]]
) -> None:
    """So long behind the table that names another door, one of the two dies, or is cut off."""
    site = Site(seed, maker=DoorMaker)
    site.check = check_step
    for after, who in deaths:
        for _ in range(10):
            site.client.submit("input")
            site.client.submit_plain()
            site.run(0.05)
        before = site.serving
        site.maker.moving = True
        site.run_until(lambda before=before: site.serving is not before, 2.0)  # type: ignore[misc]
        site.client.submit("input")
        site.run(after)
        table = site.serving
        holder, named = site.broker.holder, table.door.node if table and table.door else ""
        if who == "link":
            site.nodes[named].cut_data(0.4)
        elif len(site.alive()) > 1:
            node = holder if who == "old" and holder is not None else site.nodes[named]
            node.kill(will=bool(seed % 2))
            site.after(1.0, node.start)
    come_to_rest(site)
    check_answers(site)
    check_rest(site)


def test_the_fields_of_a_copy_are_those_of_the_input() -> None:
    asked = replace(
        make_input(1), expiry_s=9, response_topic="dsi/v1/deploy/x/out/cam/r", duplicate=False
    )
    header = copy_of(asked).header
    assert header.passed == Passed(
        "cam",
        asked.digest,
        asked.nbytes,
        None,
        asked.correlation,
        asked.response_topic,
        "normal",
        9,
    )
