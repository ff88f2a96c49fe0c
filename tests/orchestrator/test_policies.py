"""Policies are found where a package is installed that offers them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsi_mqtt.core.policy import BUILTIN, Broken, Builtin
from dsi_mqtt.orchestrator.policies import installed_policies

MODULE = """
class Calm:
    def asks(self, deployment, nodes):
        return deployment

    def moves(self, move):
        return False

class Mute:
    def asks(self, deployment, nodes):
        return deployment
"""
OFFERED = """[dsi_mqtt.policies]
calm = plant_policies:Calm
mute = plant_policies:Mute
gone = plant_policies:Gone
builtin = plant_policies:Calm
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plant_policies.py").write_text(MODULE)
    about = tmp_path / "plant_policies-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plant-policies\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(OFFERED)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_a_package_offers_policies_and_those_that_cannot_be_used_say_why() -> None:
    found = installed_policies()
    assert type(found["calm"]).__name__ == "Calm"
    assert isinstance(found[BUILTIN], Builtin)  # nobody else's
    for name, why in (("mute", "no method moves"), ("gone", "AttributeError")):
        broken = found[name]
        assert isinstance(broken, Broken)
        assert why in broken.why


def test_without_any_there_is_the_one_that_comes_along() -> None:
    assert set(installed_policies()) >= {BUILTIN}
