"""The example files: each is sound, says how it is run, and gives the placement it speaks of.

They are planned, not run: the planner gets the nodes of the file as they would describe
themselves. That `up` runs such files is tested in tests/e2e.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dsi_mqtt.cli.site import nodes_for
from dsi_mqtt.core.activation import JSON, Row, pack_body, unpack_body
from dsi_mqtt.core.deployment import without_effect
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.offers import offers
from dsi_mqtt.core.plan import Plan, plan
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.room import cache_bytes
from dsi_mqtt.core.site import SiteFile, SiteNode, node_views, nodes_without_effect
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.engine.select import TierFactory
from dsi_mqtt.wire.files import read_nodes, read_site

EXAMPLES = Path(__file__).parents[2] / "examples"
MIB = 1 << 20
DEPLOYMENTS = ["hazards.yaml", "04_split_by_hand.yaml", "05_pin.yaml"]
DEPLOYMENTS += ["07_own_model.yaml", "11_any_module.yaml", "chat.yaml"]


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    """Of the model that all but one of the files deploy."""
    (deployment,), _ = read_site(EXAMPLES / "hazards.yaml")
    return TierFactory().open(deployment.model).graph


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The model of a file, by default of the one with an `nn.Sequential`."""
    (deployment,), _ = read_site(EXAMPLES / getattr(request, "param", "07_own_model.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(EXAMPLES), *sys.path])  # as `up` and `deploy` do
        yield TierFactory().open(deployment.model)


def placed(file: str, graph: ModelGraph, nodes: SiteFile | None = None) -> Plan:
    (deployment,), site = read_site(EXAMPLES / file)
    views = [seen(node, graph) for node in nodes_for([deployment], nodes or site)]
    found = plan(deployment, graph, views)
    assert isinstance(found, Plan), found
    return found


def seen(node: SiteNode, graph: ModelGraph) -> NodeView:
    cap = 1024 * MIB if node.memory_mib is None else int(node.memory_mib * MIB)
    seconds = tuple(0.001 for _ in graph.units)
    return NodeView(node.id, f"{node.id}-1", node.zone, cap, seconds, spare=node.spare)


def parts(found: Plan) -> list[tuple[str, str]]:
    return [(str(segment.units), segment.node) for segment in found.segments]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_nothing_in_an_example_is_without_effect(name: str) -> None:
    deployments, site = read_site(EXAMPLES / name)
    assert [without_effect(deployment) for deployment in deployments] == [()]
    assert site is not None
    assert nodes_without_effect(site) == ()


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("[01]*")))
def test_each_example_stands_in_the_readme_with_commands_that_name_it(name: str) -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert f"]({name})" in readme
    for text in (readme, (EXAMPLES / name).read_text()):
        for file in re.findall(r"(?:up|--nodes|python|deploy) (examples/[\w.]+)", text):
            assert (EXAMPLES.parent / file).is_file(), file
    if name.endswith(".yaml"):
        up, infer = re.findall(r"^#   (dsi-mqtt .*)$", (EXAMPLES / name).read_text(), re.MULTILINE)
        assert up.startswith("dsi-mqtt up examples/")
        assert name in up
        assert infer.startswith("dsi-mqtt infer ")
        assert up in readme
        assert infer in readme


def test_the_nodes_to_be_split_the_model_within_its_target(graph: ModelGraph) -> None:
    (deployment,), site = read_site(EXAMPLES / "planned.yaml")
    assert site is not None
    assert without_effect(deployment) == ()
    told = offers(deployment, graph, node_views(site, graph, deployment))
    chosen = told.offers[0]
    assert len(chosen.plan.segments) > 1
    assert chosen.slow_s * 1000 <= (deployment.sla.latency_ms or 0.0)


def test_the_split_by_hand_is_the_one_that_serves(graph: ModelGraph) -> None:
    (first, second) = parts(placed("04_split_by_hand.yaml", graph))
    assert first == ("0:4", "city")
    assert second[0] == "4:8"
    assert second[1] in ("north-gw", "south-gw")


def test_pinned_units_are_where_they_are_pinned_and_the_forbidden_node_has_none(
    graph: ModelGraph,
) -> None:
    chain = parts(placed("05_pin.yaml", graph))
    assert len(chain) == 2
    assert chain[0][1] == "city"
    assert chain[1][1] == "operations"
    assert int(chain[1][0].partition(":")[0]) <= 6


def test_the_nodes_file_takes_the_place_of_the_deployments_own(graph: ModelGraph) -> None:
    chain = parts(placed("hazards.yaml", graph, read_nodes(EXAMPLES / "06_nodes.yaml")))
    assert [node for _, node in chain] == ["hall", "depot"]


def test_the_text_model_begins_and_ends_in_the_plant() -> None:
    (deployment,), site = read_site(EXAMPLES / "chat.yaml")
    graph = TierFactory().open(deployment.model, deployment.limits).graph
    caches = cache_bytes(deployment, graph)
    views = [
        replace(view, weight_bytes=view.weight_bytes - caches, cache_bytes=caches)
        for view in (seen(node, graph) for node in nodes_for([deployment], site))
    ]
    found = plan(deployment, graph, views)
    assert isinstance(found, Plan), found
    chain = parts(found)
    assert (chain[0], chain[-1]) == (("0:2", "cell"), ("5:6", "cell"))
    assert {node for _, node in chain} == {"cell", "hall-gw", "yard-gw"}


def test_the_model_of_ones_own_is_cut_where_the_file_says(own: Engine) -> None:
    assert [unit.name for unit in own.graph.units[1:-1]] == ["window", "fourier", "power"]
    chain = parts(placed("07_own_model.yaml", own.graph))
    assert chain == [("0:2", "pier"), ("2:5", "office")]


def test_the_model_of_ones_own_finds_what_swings(own: Engine) -> None:
    """As NumPy's Fourier transform does, from the input in the file's own command."""
    command = (EXAMPLES / "07_own_model.yaml").read_text().partition("--parse ")[2]
    given = json.loads(json.loads(command.splitlines()[0]))
    own.load(own.graph.whole)
    body = pack_body(JSON, json.dumps(given).encode())
    found = json.loads(unpack_body(own.forward(own.graph.whole, (Row(),), body))[1])

    hann = np.hanning(len(given) + 1)[:-1]
    spectrum = np.abs(np.fft.rfft(hann * (np.array(given) - np.mean(given))))
    assert found["hz"] == spectrum.argmax() * 16 / len(given) == 2.0
    assert found["amplitude"] == pytest.approx(spectrum.max() * 2 / hann.sum(), abs=1e-3)
    assert found["amplitude"] == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("own", ["11_any_module.yaml"], indirect=True)
def test_any_module_is_cut_where_two_tensors_cross(own: Engine) -> None:
    chain = parts(placed("11_any_module.yaml", own.graph))
    assert chain == [("0:3", "sensor"), ("3:6", "cabinet"), ("6:10", "office")]
    row = 16 * np.dtype(np.float32).itemsize
    # Behind the prelude the signal crosses alone; at the cuts half a signal or more goes past it.
    assert own.graph.units[0].output_bytes < 2 * row
    assert all(own.graph.units[cut - 1].output_bytes > row * 3 // 2 for cut in (3, 6))
