"""What `status` shows of each deployment, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from dsi_mqtt.cli.status import view
from dsi_mqtt.cli.watching import Picture
from dsi_mqtt.core.deployment import Policy
from dsi_mqtt.core.node import Leader
from tests.core.orchestra import NAME, SPEC, Node, Site, serving

LEADS = Leader(1, "n", 5)


def shown(picture: Picture) -> str:
    console = Console(width=300)
    with console.capture() as captured:
        console.print(view(picture, 0.0))
    return captured.get()


@pytest.mark.parametrize(
    ("leader", "headline", "line"),
    [
        (None, "no orchestrator leads", "waits for an orchestrator"),
        (replace(LEADS, beat=0), "no orchestrator leads", "waits for an orchestrator"),
        (LEADS, "orchestrator n leads", "is not placed yet"),
    ],
)
def test_a_deployment_without_a_table_waits_for_whom_it_lacks(
    leader: Leader | None, headline: str, line: str
) -> None:
    told = shown(Picture(specs={NAME: SPEC}, leader=leader))
    assert told.startswith(headline)
    assert f"{NAME}: {line}\n" in told


def test_a_deployment_whose_first_table_is_being_prepared_says_so() -> None:
    site = Site(Node("a", "a-1", loads=None))
    site.deploy()
    site.until(lambda: NAME in site.documents and site.document.prepare is not None)
    told = shown(Picture(site.specs, site.documents, site.statuses, leader=site.leader))
    assert f"{NAME}: is being prepared\n" in told


def test_what_serves_on_says_why_the_deployment_is_not_placed_as_it_is() -> None:
    site = serving(Node("a", "a-1"))
    site.deploy(replace(SPEC, policy=Policy(pin={"0:1": "z"})))
    site.until(lambda: site.document.refused is not None)
    told = shown(Picture(site.specs, site.documents, site.statuses, leader=site.leader))
    assert f"{NAME}: serving, epoch" in told
    assert "; as it is deployed now it cannot be placed: units 0:1 are pinned to z" in told
