"""Scenario files: what they may say, and one clear sentence for what they may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsi_mqtt.errors import MESSAGE_MAX, ConfigError
from dsi_mqtt.sim.scenario import Fault, Line
from dsi_mqtt.sim.scenario_file import read_scenario, scenario_of
from dsi_mqtt.sim.simulation import Simulation
from dsi_mqtt.sim.traces import Trace

FILE = Path("site.yaml")
MODEL = {"tier": "fake", "options": {"units": 4, "unit_ms": 5}}


def document(**changes: Any) -> dict[str, Any]:
    whole = {
        "schema": "dsi.scenario/1",
        "duration_s": 60,
        "nodes": [{"id": "gw", "count": 3}],
        "deployments": [{"name": "hazards", "model": MODEL}],
        "requests": [{"deployment": "hazards", "rate_per_s": 2}],
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


def test_defaults_are_filled_in() -> None:
    found = scenario_of(document(faults=[{"at_s": 5, "kill": "gw-3"}]), FILE)
    assert found.nodes[0].names() == ("gw-1", "gw-2", "gw-3")
    assert found.nodes[0].link == Line()
    assert found.deployments[0].deadline_s == 10.0
    assert found.faults == (Fault(5.0, kill="gw-3"),)
    assert found.faults[0].kind == "kill"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema": ...}, 'schema: is missing; begin the file with "schema: dsi.scenario/1"'),
        ({"schema": "dsi.nodes/1"}, "schema: 'dsi.nodes/1' is not supported; this program reads"),
        ({"speed": 3}, "speed: is no field here; check its spelling and indentation"),
        ({"nodes": []}, "nodes: is empty; name one at least, like {id: gateway, count: 3}"),
        ({"nodes": [{"id": "a"}, {"id": "a"}]}, "nodes: two nodes have the same name"),
        ({"nodes": [{"id": "a", "count": 20_000}]}, "nodes[0].count: 20000 must be at most 10,000"),
        ({"nodes": [{"id": "a b"}]}, "nodes[0].id"),
        ({"nodes": [{"id": "a", "link": {"rtt_ms": -1}}]}, "nodes[0].link.rtt_ms: -1.0 must be 0"),
        ({"nodes": [{"id": "a", "gflops": "x"}]}, "nodes[0].gflops: must be a number, not 'x'"),
        (
            {"nodes": [{"id": "a", "spread": float("nan")}]},
            "nodes[0].spread: nan must be 0 or more",
        ),
        ({"duration_s": 0}, "duration_s: 0.0 must be greater than 0"),
        ({"deployments": [{"name": "hazards"}]}, "deployments[0]: model: is missing"),
        (
            {"deployments": [{"name": "hazards", "model": {"path": "x"}}]},
            "deployments[0].model.tier: layer computes; a simulation takes tier fake",
        ),
        (
            {"requests": [{"deployment": "hazards", "new_tokens": 8}]},
            "requests[0].new_tokens: hazards answers in one pass; leave it out",
        ),
        (
            {
                "deployments": [
                    {
                        "name": "hazards",
                        "model": MODEL,
                        "kind": "generation",
                        "fallback": {"model": "./tiny", "options": {"units": 2, "hidden": 9}},
                    }
                ],
            },
            "deployments[0].fallback.options: devices check its texts as well; give it the hidden",
        ),
        (
            {
                "deployments": [{"name": "hazards", "model": MODEL, "kind": "generation"}],
                "requests": [{"deployment": "hazards", "bytes": 8}],
            },
            "requests[0].bytes: hazards generates; say prompt_tokens instead",
        ),
        (
            {"deployments": [{"name": "hazards", "model": {"tier": "fake", "options": {"x": 1}}}]},
            "model.options has unknown x",
        ),
        (
            {
                "deployments": [
                    {"name": "hazards", "model": MODEL, "privacy": {"units": {"0:9": ["edge"]}}}
                ]
            },
            "deployments[0]: privacy.units",
        ),
        ({"deployments": [{"name": "hazards", "model": MODEL}] * 2}, "deployments: two of them"),
        ({"requests": [{"deployment": "other"}]}, "requests[0].deployment: there is no deployment"),
        ({"requests": [{"deployment": "hazards", "from_s": 60}]}, "requests[0].from_s: 60 is not"),
        (
            {"requests": [{"deployment": "hazards", "bytes": 2_000_000}]},
            "requests[0].bytes: 2000000",
        ),
        (
            {"requests": [{"deployment": "hazards", "arrivals": "storm"}]},
            "requests[0].arrivals: must be 'poisson', 'bursts' or 'diurnal', not 'storm'",
        ),
        ({"faults": [{"at_s": 1}]}, "faults[0]: give exactly one of kill, freeze, cut, throttle"),
        ({"faults": [{"at_s": 1, "kill": "gw"}]}, "faults[0].kill: there is no node 'gw'"),
        ({"faults": [{"at_s": 1, "cut": "gw-1"}]}, "faults[0].for_s: is missing; say for how long"),
        (
            {"faults": [{"at_s": 1, "for_s": 1, "kill": "gw-1", "cut": "gw-1"}]},
            "faults[0]: give exactly one of",
        ),
        ({"faults": [{"at_s": 1, "broker": "data"}]}, "faults[0].for_s: is missing; say for how"),
        (
            {"faults": [{"at_s": 1, "for_s": 1, "broker": "third"}]},
            "faults[0].broker: must be 'control', 'data' or 'both', not 'third'",
        ),
        (
            {"faults": [{"at_s": 1, "for_s": 1, "kill": "gw-1", "forgets": True}]},
            "faults[0].forgets: is about a broker; leave it out",
        ),
        (
            {"faults": [{"at_s": 1, "for_s": 1, "broker": "data", "stops": True}]},
            "faults[0].stops: the data broker keeps nothing; leave it out",
        ),
        (
            {"operations": [{"at_s": 1}]},
            "operations[0]: give exactly one of drain, deploy and undeploy",
        ),
        (
            {"operations": [{"at_s": 1, "drain": "gw-1", "undeploy": "hazards"}]},
            "operations[0]: give exactly one of drain, deploy and undeploy",
        ),
        ({"operations": [{"drain": "gw-1"}]}, "operations[0].at_s: is missing"),
        ({"operations": [{"at_s": 1, "drain": "gw"}]}, "operations[0].drain: there is no node"),
        (
            {"operations": [{"at_s": 1, "for_s": 5, "undeploy": "hazards"}]},
            "operations[0].for_s: only a drain is undone; leave it out",
        ),
        (
            {"operations": [{"at_s": 1, "undeploy": "other"}]},
            "operations[0].undeploy: there is no deployment 'other'",
        ),
        (
            {"operations": [{"at_s": 1, "deploy": {"name": "hazards"}}]},
            "operations[0].deploy: model: is missing",
        ),
        (
            {"operations": [{"at_s": 1, "deploy": {"name": "a", "model": {"path": "x"}}}]},
            "operations[0].deploy.model.tier: layer computes; a simulation takes tier fake",
        ),
        (
            {
                "operations": [
                    {"at_s": 1, "deploy": {"name": "hazards", "model": MODEL, "kind": "generation"}}
                ]
            },
            "operations[0].deploy.kind: hazards was deployed as one-pass; give that",
        ),
        (
            {
                "requests": ...,
                "deployments": [{"name": "chat", "model": MODEL, "kind": "generation"}],
                "operations": [
                    {
                        "at_s": 1,
                        "deploy": {
                            "name": "chat",
                            "model": {"tier": "fake", "options": {"units": 4, "hidden": 8}},
                            "kind": "generation",
                        },
                    }
                ],
            },
            "operations[0].deploy.model.options.hidden: chat was deployed with 16 tokens",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_the_field(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        scenario_of(document(**changes), FILE)
    sentence = str(raised.value)
    assert sentence.startswith("site.yaml: ")
    assert told in sentence
    assert len(sentence) <= MESSAGE_MAX


def test_a_deployment_may_come_later_and_be_asked_then() -> None:
    later = {"name": "later", "model": MODEL}
    asked = [{"deployment": "later", "from_s": 20}]
    changed = {"name": "later", "model": MODEL, "sla": {"rate_per_s": 9}}
    operations = [{"at_s": 40, "deploy": changed}, {"at_s": 10, "deploy": later}]
    found = scenario_of(document(operations=operations, requests=asked), FILE)
    assert [spec.name for spec in found.all_deployments()] == ["hazards", "later", "later"]
    assert found.first_deployments()["later"].sla.rate_per_s is None
    assert found.all_deployments()[-1].sla.rate_per_s == 9


def test_a_file_holds_one_scenario(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("schema: dsi.scenario/1\n---\nschema: dsi.scenario/1\n", "utf-8")
    with pytest.raises(ConfigError, match=r"two\.yaml: holds 2 documents; a scenario is one"):
        read_scenario(path)


def test_a_link_takes_a_trace_of_the_folder_or_one_that_is_made_up() -> None:
    recorded = {"way": Trace((5.0,), (9.0,))}
    asked = document(nodes=[{"id": "a", "link": {"trace": name}} for name in ("way",)])
    assert Simulation(scenario_of(asked, FILE), recorded).nodes["a"].link.rtt_s(0.0) == 0.009
    asked = document(nodes=[{"id": "a", "link": {"trace": "any"}}])
    assert Simulation(scenario_of(asked, FILE), recorded).nodes["a"].link.rtt_s(0.0) == 0.009
    with pytest.raises(ConfigError, match=r"there is no trace 'any'; known are drive, walk, wire"):
        Simulation(scenario_of(asked, FILE))
