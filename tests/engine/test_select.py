from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine import select
from dsi_mqtt.engine.select import TierFactory, factory_for, missing_packages
from dsi_mqtt.errors import ConfigError, MachineError


def test_each_tier_has_its_factory() -> None:
    assert type(factory_for(ModelSpec(tier="fake"))).__name__ == "FakeFactory"
    for tier, name in (
        ("layer", "TorchFactory"),
        ("sequential", "TorchFactory"),
        ("graph", "GraphFactory"),
    ):
        spec: Any = ModelSpec(tier=tier)  # type: ignore[arg-type]  # the literals, one by one
        factory: Any = factory_for(spec, threads=3)
        assert type(factory).__name__ == name
        assert factory.threads == 3
    assert len(TierFactory().open(ModelSpec(tier="fake", options={"units": 3})).graph.units) == 3


def test_an_unknown_tier_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.tier is 'whole'"):
        factory_for(ModelSpec(tier="whole"))  # type: ignore[arg-type]


def test_a_machine_without_torch_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dsi_mqtt.engine.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        MachineError, match=r"needs torch.*pip install '\.\[node\]' in the checkout"
    ):
        factory_for(ModelSpec(path="/models/minilm"))


def test_nothing_but_the_torch_engines_imports_torch() -> None:
    check = (
        "import sys, dsi_mqtt.engine.select, dsi_mqtt.engine.weights;"
        "from dsi_mqtt.core.model import ModelSpec;"
        "dsi_mqtt.engine.select.TierFactory().open(ModelSpec(tier='fake'));"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", check], cwd=root, check=False).returncode == 0


def test_what_is_missing_for_all_but_fake_models_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_packages() == []
    monkeypatch.setattr(select, "find_spec", lambda name: None if name == "torch" else name)
    assert missing_packages() == ["torch"]
