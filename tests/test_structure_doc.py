"""docs/structure.md is a map of what is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from dsi_mqtt.core.explanation import DecisionKind
from dsi_mqtt.core.membership import GRACE_S

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "structure.md").read_text("utf-8")
MAP = TEXT.split("## Where do I change")[1].split("\n## ")[0]


def paths() -> list[str]:
    """Files and folders named between backticks."""
    return sorted(set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?|\w+\.py)`", TEXT)))


@pytest.mark.parametrize("path", paths())
def test_what_the_map_names_is_there(path: str) -> None:
    places = [ROOT, ROOT / "dsi_mqtt", ROOT / "dsi_mqtt" / "transport"]
    assert any((place / path).exists() for place in places)


def test_the_map_leads_to_every_file_of_the_core() -> None:
    files = {f"core/{path.name}" for path in (ROOT / "dsi_mqtt" / "core").glob("[a-z]*.py")}
    named = set(re.findall(r"`(core/\w+\.py)`", TEXT))
    assert named == files


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (ROOT / "docs" / link).exists(), link


def test_the_steps_of_a_decision_are_the_code_s() -> None:
    steps = TEXT.split("## The life of a decision")[1]
    kinds = re.findall(r"kind \(([^)]*)\)", steps.replace("\n", " "))
    assert kinds == [", ".join(get_args(DecisionKind))]
    assert f"Nothing counts for {GRACE_S:g} s" in steps
