"""A user's own module with skips, in three segments on live nodes: the graph tier end to end."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from dsi_mqtt.cli.site import nodes_for
from dsi_mqtt.client import Client
from dsi_mqtt.engine.torch import OwnModel
from dsi_mqtt.wire.files import read_site
from tests import preloaded
from tests.e2e.live import live_site
from tests.e2e.programs import PATIENCE_S, dsi_mqtt

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "examples"
FILE = EXAMPLES / "11_any_module.yaml"


def unsplit(model: OwnModel, signal: list[float]) -> object:
    """What the module makes of one input, without any of ours between."""
    assert model.postprocess is not None
    with torch.no_grad():
        return model.postprocess(model.module(torch.tensor([signal]))[0])


async def test_three_nodes_answer_what_the_module_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    model: OwnModel = importlib.import_module("pyramid").smoother()
    random = np.random.default_rng(7)
    signals = [(random.normal(size=16) * scale).tolist() for scale in (1, 3, 100)]
    command = FILE.read_text().partition("dsi-mqtt infer ")[2].splitlines()[0]
    (spec,), site = read_site(FILE)
    nodes = nodes_for([spec], site)
    async with live_site(tmp_path, nodes, models=EXAMPLES, processes=preloaded.heavy) as live:
        table = await live.deploy(spec)
        async with Client(live.url) as client:
            answers = [
                await client.infer("smooth", signal, timeout_s=PATIENCE_S) for signal in signals
            ]
            batch = await client.infer("smooth", signals[:2], timeout_s=PATIENCE_S)
        asked = await dsi_mqtt("infer", *shlex.split(command), "--broker", live.url)
    assert answers == [unsplit(model, signal) for signal in signals]
    assert batch == {"results": answers[:2]}
    given = json.loads(shlex.split(command)[-1])
    told = json.loads(asked.out)
    assert (asked.code, told) == (0, unsplit(model, [float(number) for number in given]))
    assert max(told[:8]) < 4
    assert min(told[8:]) >= 20
    places = [segment.replicas[0].node for segment in table.segments]
    assert places == ["sensor", "cabinet", "office"]
