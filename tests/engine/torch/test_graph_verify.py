"""Verification fails closed: whatever is wrong with a split, it does not pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.torch.graph_export import Exported, export_graph
from dsi_mqtt.engine.torch.graph_flow import Flow, find_flow
from dsi_mqtt.engine.torch.graph_split import SplitGraph
from dsi_mqtt.engine.torch.graph_trial import trial_inputs, trial_weights
from dsi_mqtt.engine.torch.graph_verify import NotFiniteError, check_graph, put_trainable
from dsi_mqtt.errors import SplitError

WIDTH = 6
SAMPLE = {"value": torch.zeros(1, WIDTH)}


class Skips(nn.Module):
    """Like blocks in a row, with a tensor that goes past all of them, and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        past = torch.sin(value)
        for block in self.blocks:
            value = torch.tanh(block(value))
        return (value * past).reshape(past.shape[0], -1)


@pytest.fixture(scope="module")
def exported() -> Exported:
    return export_graph(Skips().eval(), SAMPLE, fixed=True)


def steps_of(flow: Flow, name: str) -> list[int]:
    return [place for place, step in enumerate(flow.steps) if step.name.startswith(name)]


def check(exported: Exported, flow: Flow | None = None, kind: Any = SplitGraph) -> None:
    """Verifies the split before every block."""
    flow = flow or find_flow(exported)
    module = Skips().eval()
    weights = trial_weights(module)
    put_trainable(module, weights)
    cuts = [0, *steps_of(flow, "linear"), flow.ends]
    parts = kind(exported, flow, cuts, weights.__getitem__)
    assert parts.units == 7
    check_graph(module, parts, trial_inputs(SAMPLE, exported.shapes), each_cut=True)


def test_a_right_split_passes(exported: Exported) -> None:
    check(exported)


class Dropping(SplitGraph):
    def run(self, units: UnitRange, values: Any) -> Any:
        return values if units == UnitRange(3, 4) else super().run(units, values)


class Swapping(SplitGraph):
    def run(self, units: UnitRange, values: Any) -> Any:
        other = {UnitRange(3, 4): UnitRange(4, 5), UnitRange(4, 5): UnitRange(3, 4)}
        return super().run(other.get(units, units), values)


class Forgetting(SplitGraph):
    """The tensor that goes past the blocks arrives as zeros."""

    def run(self, units: UnitRange, values: Any) -> Any:
        if units.start == 4:
            values = [
                torch.zeros_like(value) if "sin" in node.name else value
                for node, value in zip(self.boundary(4).tensors, values, strict=False)
            ] + list(values[len(self.boundary(4).tensors) :])
        return super().run(units, values)


class Stale(SplitGraph):
    """Weights of another unit."""

    def run(self, units: UnitRange, values: Any) -> Any:
        if units == UnitRange(0, self.units):
            return super().run(units, values)
        made = self.with_weights(lambda name: self._weight(name.replace("blocks.2", "blocks.1")))
        return made.run(units, values)


class CutWrongly(SplitGraph):
    """Right as a chain of units; wrong where a node holds several of them."""

    def run(self, units: UnitRange, values: Any) -> Any:
        made = super().run(units, values)
        return [value * 1.5 for value in made] if units == UnitRange(0, 3) else made


@pytest.mark.parametrize("kind", [Dropping, Swapping, Forgetting, Stale, CutWrongly])
def test_wrong_splits_do_not_pass(exported: Exported, kind: type[SplitGraph]) -> None:
    with pytest.raises(SplitError, match="do not compute what the whole does"):
        check(exported, kind=kind)


def without(flow: Flow, name: str) -> Flow:
    return dataclasses.replace(
        flow, alive={node: alive for node, alive in flow.alive.items() if node.name != name}
    )


@pytest.mark.parametrize("name", ["sin", "tanh", "tanh_2", "value"])
def test_a_tensor_that_does_not_cross_cannot_be_overlooked(exported: Exported, name: str) -> None:
    with pytest.raises(TypeError, match=r"missing .* required positional argument"):
        check(exported, without(find_flow(exported), name))


def trial(
    then: Callable[[torch.Tensor], torch.Tensor], exported_then: Callable[[Any], Any]
) -> None:
    """Checks the graph of one module against another."""

    class Module(nn.Module):
        def __init__(self, made: Callable[[torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.layer, self.made = nn.Linear(WIDTH, WIDTH), made

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return self.made(self.layer(value))

    exported = export_graph(Module(exported_then).eval(), SAMPLE, fixed=True)
    module = Module(then).eval()
    weights = trial_weights(module)
    put_trainable(module, weights)
    flow = find_flow(exported)
    parts = SplitGraph(exported, flow, [0, flow.ends], weights.__getitem__)
    check_graph(module, parts, trial_inputs(SAMPLE, exported.shapes), each_cut=True)


def test_a_graph_that_is_not_the_modules_does_not_pass() -> None:
    trial(torch.sin, torch.sin)
    trial(lambda value: value * (1 + 2e-6), lambda value: value * 1)
    for wrong in (lambda value: value * (1 + 1e-4), lambda value: value.double(), torch.cos):
        with pytest.raises(SplitError, match="does not compute what the module does"):
            trial(wrong, lambda value: value * 1)


def test_chance_and_counting_in_a_module_do_not_pass() -> None:
    with pytest.raises(SplitError, match="another result the second time"):
        trial(lambda value: value + torch.rand(1), lambda value: value + 0.5)


def test_a_comparison_of_nothing_does_not_pass() -> None:
    with pytest.raises(NotFiniteError):
        trial(lambda value: value / 0, lambda value: value / 0)


def test_trial_weights_all_matter_and_take_little_memory() -> None:
    module = nn.Sequential(nn.Linear(4000, 3000), nn.BatchNorm1d(3000), nn.Embedding(5000, 300))
    weights = trial_weights(module.to("meta"))
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in module.state_dict().items()
    }
    assert sum(value.untyped_storage().nbytes() for value in weights.values()) < 4 * 2**17
    for name, value in weights.items():
        if value.is_floating_point():
            assert value.std() > 0.005, name
            assert not torch.equal(value[0], value[1])
    assert weights["1.running_var"].min() >= 0.5


def test_trial_inputs_have_several_rows_and_sizes() -> None:
    class Open(nn.Module):
        def forward(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (words * mask)[:, :12].cumsum(1)

    sample = {"words": torch.arange(3, 9)[None], "mask": torch.ones(1, 6)}
    exported = export_graph(Open(), sample, fixed=False)
    made = list(trial_inputs(sample, exported.shapes))
    assert [tuple(item["words"].shape) for item in made] == [(1, 6), (2, 3)]
    assert all(item["words"].shape == item["mask"].shape for item in made)
    assert made[1]["words"].tolist() == [[3, 4, 5]] * 2
