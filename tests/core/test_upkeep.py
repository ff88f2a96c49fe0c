"""What nodes cost is told by them, and counts where a deployment weighs money."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.cli.site import worker_arguments
from dsi_mqtt.cli.worker import parse_watts
from dsi_mqtt.core.deployment import Objective, Prices
from dsi_mqtt.core.node import Upkeep, Watts
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.errors import ConfigError
from tests.core.orchestra import SPEC, Node, placed, serving

PRICED = replace(
    SPEC,
    prices=Prices(node_hour={"default": 1.0, "dear": 5.0}, kwh=0.3),
    objective=Objective(latency=1.0, cost=1.0),
)


def two(cheap: Upkeep, dear: Upkeep) -> list[Node]:
    """One is twice as fast, and both can hold everything."""
    return [
        Node("slow", "s1", room=9, upkeep=cheap),
        Node("fast", "f1", room=9, gflops=40.0, upkeep=dear),
    ]


def test_the_cheaper_of_two_nodes_serves_where_money_counts() -> None:
    nodes = two(Upkeep(), Upkeep("dear"))
    assert {node for node, _ in placed(serving(*nodes, spec=PRICED).serve)} == {"slow"}
    nodes = two(Upkeep(), Upkeep("dear"))
    assert {node for node, _ in placed(serving(*nodes).serve)} == {"fast"}


def test_power_counts_as_money() -> None:
    nodes = two(Upkeep(), Upkeep(watts=Watts(9_000.0, 90_000.0)))
    assert {node for node, _ in placed(serving(*nodes, spec=PRICED).serve)} == {"slow"}


def test_a_node_whose_class_has_no_price_is_left_out_and_named() -> None:
    spec = replace(PRICED, prices=Prices(node_hour={"cheap": 1.0}))
    site = serving(*two(Upkeep("cheap"), Upkeep("unheard")), spec=spec)
    assert {node for node, _ in placed(site.serve)} == {"slow"}
    site.kill("slow")
    site.until(lambda: site.document.serve is not None and site.serve.state == "unavailable")
    assert "prices.node_hour has no price for 'unheard'" in (site.serve.reason or "")


def test_a_nodes_file_tells_workers_what_they_cost() -> None:
    node = SiteNode("a", price="cloud", watts=Watts(4, 12.5))
    arguments = worker_arguments(node, "mqtt://h", "dsi/v1")
    assert arguments[arguments.index("--price") + 1] == "cloud"
    assert parse_watts(arguments[arguments.index("--watts") + 1]) == Watts(4.0, 12.5)
    assert "--price" not in worker_arguments(SiteNode("a"), "mqtt://h", "dsi/v1")


@pytest.mark.parametrize("text", ["", "4", "4,x", "-1,2", "1,inf", "nan,1", "1,2,3"])
def test_what_are_no_watts_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--watts: .* are no watts"):
        parse_watts(text)
