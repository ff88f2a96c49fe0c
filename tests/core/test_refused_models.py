"""A model that was refused: looked at again ever more seldom, and at once when it is asked for."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.effects import CloseModel, Effects, LoadUnits, OpenModel, ReportStatus
from dsi_mqtt.core.holdings import AGAIN_FIRST_S, AGAIN_MAX_S, Holdings
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.core.node import Capabilities, ModelReport
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.core.worker import Worker
from tests.core.build import NAME, A, B, document, make_graph, make_spec, make_table

MISSING = "model.path: no such folder"


def refused(reason: str = MISSING) -> Holdings:
    holdings = Holdings(*A, 1000)
    holdings.spec_arrived(make_spec())
    holdings.document_arrived(NAME, document(make_table((A, (0, 3)), (B, (3, 6)))))
    holdings.model_refused(NAME, reason, 0.0)
    return holdings


def opens(effects: Effects) -> int:
    return sum(isinstance(effect, OpenModel) for effect in effects)


def test_a_model_that_comes_back_is_loaded_and_serves() -> None:
    holdings = refused()
    assert [r.state for r in holdings.holding_reports()] == ["failed"]
    assert holdings.tick(AGAIN_FIRST_S - 0.1) == []
    assert holdings.tick(AGAIN_FIRST_S) == [OpenModel(make_spec())]
    assert holdings.model_reports() == (
        ModelReport(NAME, None, MISSING, opening=make_spec().opening),
    ), "refused until it is not"
    effects = holdings.model_opened(NAME, make_graph())
    assert [e for e in effects if isinstance(e, LoadUnits)]
    holdings.units_loaded(NAME, holdings.holding_reports()[0].units, 1.0)
    assert [r.state for r in holdings.holding_reports()] == ["ready"]
    assert holdings.tick(1e9) == []


def test_it_is_asked_for_again_more_and_more_seldom_and_never_given_up() -> None:
    holdings, now, pauses = refused(), 0.0, []
    for _ in range(10):
        before = now
        while not opens(holdings.tick(now)):
            now += 0.5
        pauses.append(now - before)
        assert holdings.model_refused(NAME, MISSING, now) == [], "nothing new to report"
    assert pauses[:4] == [AGAIN_FIRST_S * n for n in (1, 2, 4, 8)]
    assert pauses[-1] == AGAIN_MAX_S


@given(st.lists(st.sampled_from(["tick", "answer", "again", "other", "gone"]), max_size=30))
def test_it_is_opened_once_at_a_time(steps: list[str]) -> None:
    """Between two openings there is an answer, or the first was closed."""
    holdings, now, open_here = refused(), 0.0, 0
    number = 0
    for step in steps:
        now += AGAIN_MAX_S
        effects: Effects = []
        if step == "tick":
            effects = holdings.tick(now)
        elif step == "answer" and open_here:
            open_here -= 1
            effects = holdings.model_refused(NAME, MISSING, now)
        elif step == "again":
            effects = holdings.spec_arrived(make_spec())
        elif step == "other":
            number += 1
            model = ModelSpec(tier="fake", options={"seed": number})
            effects = holdings.spec_arrived(replace(make_spec(), model=model))
        elif step == "gone":
            effects = holdings.spec_gone(NAME)
        for effect in effects:
            if isinstance(effect, CloseModel):
                open_here = 0
            open_here += isinstance(effect, OpenModel)
        assert open_here <= 1


def test_published_again_it_is_asked_for_at_once() -> None:
    holdings = refused()
    effects = holdings.spec_arrived(make_spec())
    assert effects == [CloseModel(NAME), OpenModel(make_spec()), ReportStatus()]
    assert holdings.model_reports() == ()
    assert holdings.spec_arrived(make_spec()) == [], "it is on its way"
    holdings.model_refused(NAME, MISSING, 100.0)
    assert holdings.tick(100.0 + AGAIN_FIRST_S) == [OpenModel(make_spec())], "pauses begin anew"


def test_another_reason_is_reported() -> None:
    holdings = refused()
    holdings.tick(AGAIN_FIRST_S)
    assert ReportStatus() in holdings.model_refused(NAME, "config.json: not JSON", 6.0)
    assert holdings.model_reports() == (
        ModelReport(NAME, None, "config.json: not JSON", opening=make_spec().opening),
    )


def test_a_model_that_nobody_wants_any_more_is_not_asked_for() -> None:
    holdings = refused()
    holdings.spec_gone(NAME)
    assert holdings.tick(1e9) == []


def test_the_node_asks_by_its_clock() -> None:
    worker = Worker(
        *A,
        zone="zone",
        capabilities=Capabilities(weight_bytes=1000),
        brokers=BrokerUrls("mqtt://control", "mqtt://data"),
    )
    worker.handle(ev.SpecArrived(make_spec()), 0.0)
    worker.handle(ev.ModelRefused(NAME, MISSING), 7.0)
    assert not opens(worker.handle(ev.Ticked(), 7.0 + AGAIN_FIRST_S - 0.1))
    assert opens(worker.handle(ev.Ticked(), 7.0 + AGAIN_FIRST_S)) == 1
