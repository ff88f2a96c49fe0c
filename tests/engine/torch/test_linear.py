"""Linear layers over a few rows: the other way computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dsi_mqtt.engine.torch import linear
from dsi_mqtt.engine.torch.linear import ROWS_MAX, FewRowsLinear, favour_few_rows


@pytest.fixture(params=[True, False], ids=["turned", "usual"])
def turned(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this machine would find the other way faster, for any number of rows."""
    rows = frozenset(range(2, ROWS_MAX + 1)) if request.param else frozenset()
    monkeypatch.setattr(linear, "_turned", lambda dtype: rows)
    return bool(request.param)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 7), (8, 1), (2, 2, 4), (17, 1), (0, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_are_what_linear_makes(shape: tuple[int, ...], bias: bool, turned: bool) -> None:
    module = nn.Sequential(nn.Linear(24, 40, bias=bias), nn.Linear(40, 5, bias=bias))
    given = torch.randn(*shape, 24)
    with torch.inference_mode():
        expected = module(given)
        favour_few_rows(module)
        found = module(given)
    assert found.shape == expected.shape
    assert found.is_contiguous()
    assert torch.allclose(found, expected, atol=1e-6)


def test_only_plain_linear_layers_change() -> None:
    class Own(nn.Linear):
        pass

    module = nn.ModuleList([nn.Linear(2, 2), Own(2, 2), nn.Conv1d(2, 2, 1)])
    favour_few_rows(module)
    assert [type(part) for part in module] == [FewRowsLinear, Own, nn.Conv1d]


def test_hollow_layers_are_left_to_the_library(turned: bool) -> None:
    module = nn.Sequential(nn.Linear(24, 40, device="meta"))
    favour_few_rows(module)
    assert module(torch.empty(4, 24, device="meta")).shape == (4, 40)


def test_what_is_faster_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([3.0, 1.0, 1.0, 1.0, 5.0, 2.0, 1.0, 1.1])
    monkeypatch.setattr(linear, "_least_s", lambda compute: next(times))
    assert linear._turned.__wrapped__(torch.float32) == frozenset({2, 3, *range(8, 16)})
