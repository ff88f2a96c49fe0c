from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dsi_mqtt.engine.torch.flops import FlopCount
from dsi_mqtt.engine.torch.phantom import NeedsValueError, Phantom, phantom, phantom_like
from dsi_mqtt.engine.torch.structure import Reference, Structure, block_levels, find_structure
from dsi_mqtt.errors import SplitError


def test_a_phantom_looks_like_its_tensor_and_holds_nothing() -> None:
    made = phantom((1 << 20, 1 << 20), torch.float32)
    assert made.device == torch.device("cpu")
    assert (made + 1).shape == (1 << 20, 1 << 20)
    assert phantom_like(torch.zeros(2, 3).T).stride() == (1, 3)


def test_sources_flow_through_operations_and_stop_at_shapes() -> None:
    left, right = phantom((2, 3), torch.float32, {"a"}), phantom((3, 4), torch.float32, {"b"})
    product = (left @ right).softmax(-1)
    assert isinstance(product, Phantom)
    assert product.sources == {"a", "b"}
    shifted = left + torch.ones(3)
    assert isinstance(shifted, Phantom)
    assert shifted.sources == {"a"}
    ones = torch.ones_like(left)
    assert not isinstance(ones, Phantom)
    assert torch.equal(ones, torch.ones(2, 3))
    assert torch.equal(left.new_full((2,), 7.0), torch.tensor([7.0, 7.0]))
    assert torch.equal(torch.arange(2, device=product.device), torch.tensor([0, 1]))


def test_what_is_remembered_of_an_operation_is_its_shape_alone() -> None:
    first = phantom((2, 3), torch.float32, {"a"}) @ phantom((3, 4), torch.float32, {"b"})
    again = phantom((2, 3), torch.float32, {"c"}) @ phantom((3, 4), torch.float32)
    assert (first.sources, again.sources) == ({"a", "b"}, {"c"})  # type: ignore[attr-defined]
    with torch.inference_mode():
        again.add_(phantom((4,), torch.float32, {"d"}))
    assert first.sources == {"a", "b"}  # type: ignore[attr-defined]
    for _ in range(2):
        whole, turned = torch.zeros(3, 3), torch.zeros(3, 3).T
        assert [(phantom_like(value) * 2).stride() for value in (whole, turned)] == [(3, 1), (1, 3)]
        numbers = phantom((2,), torch.int64)
        dtypes = [(numbers + other).dtype for other in (1, 1.0, True, 1 + 0j)]
        assert dtypes == [torch.int64, torch.float32, torch.int64, torch.complex64]
        assert [numbers.sum(0, keepdim=kept).dim() for kept in (True, False)] == [1, 0]


def test_writing_to_a_view_taints_what_it_views() -> None:
    base = phantom((2, 3), torch.float32, {"base"})
    with torch.inference_mode():
        base[0].add_(phantom((3,), torch.float32, {"added"}))
    assert base.sources == {"base", "added"}


@pytest.mark.parametrize(
    "operation",
    [
        lambda value: value.sum().item(),
        lambda value: bool((value > 0).all()),
        lambda value: value.nonzero(),
        lambda value: torch.zeros(2, 3).copy_(value),
        lambda value: torch.equal(value, value),
    ],
)
def test_values_of_phantoms_are_never_made_up(operation: Callable[[Any], object]) -> None:
    with pytest.raises(NeedsValueError) as raised:
        operation(phantom((2, 3), torch.float32, {"a"}))
    assert raised.value.sources == {"a"}


def test_products_are_counted() -> None:
    count = FlopCount()
    attention = nn.functional.scaled_dot_product_attention
    with torch.inference_mode(), count:
        phantom((2, 5), torch.float32) @ phantom((5, 7), torch.float32)
        assert count.take() == 2 * 2 * 5 * 7
        nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8))
        assert count.take() == 2 * 3 * 4 * 9 * 36
        heads = torch.zeros(1, 2, 5, 8)
        attention(heads, heads, heads)
        assert count.take() == 2 * (2 * 2 * 5 * 5 * 8)
        assert count.take() == 0


class Chain(nn.Module):
    """Blocks with whatever lies between them."""

    def __init__(self, step: Callable[[Chain, int, torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.last = nn.Linear(4, 4)
        self.shared = nn.Parameter(torch.ones(4))
        self.step = step
        self.kept = torch.zeros(())

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        value = first = self.first(x)
        for at in range(3):
            value = self.step(self, at, value, first * scale)
        out: torch.Tensor = self.last(value)
        return out


def traced(step: Callable[..., Any]) -> Structure:
    model = Chain(step)
    for name, weight in list(model.named_parameters()):
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        owner._parameters[leaf] = nn.Parameter(
            phantom_like(weight.detach(), {name}), requires_grad=False
        )
    inputs = {"x": torch.zeros(1, 4), "scale": torch.ones(4)}
    return find_structure(model, Reference(inputs), block_levels(model))


def test_units_need_what_they_compute_with() -> None:
    structure = traced(lambda model, at, value, _: model.blocks[at](value).relu())
    assert structure.blocks == ("blocks.0", "blocks.1", "blocks.2")
    assert structure.needs[0] == {"first.weight", "first.bias"}
    assert structure.needs[2] == {"blocks.1.weight", "blocks.1.bias"}
    assert structure.needs[4] == {"last.weight", "last.bias"}
    assert structure.carried == ()
    assert [stream is None for stream in structure.streams] == [False] * 4 + [True]
    assert structure.flops == (32.0,) * 5


def test_weights_that_several_units_use_belong_to_each() -> None:
    """What follows a block is its unit's up to the next one, and the head's after the last."""
    structure = traced(lambda model, at, value, _: model.blocks[at](value) * model.shared)
    assert ["shared" in needs for needs in structure.needs] == [False, True, True, False, True]


def test_inputs_that_later_units_use_are_carried() -> None:
    def step(model: Chain, at: int, value: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = model.blocks[at](value)
        return made

    class Scaled(Chain):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return super().forward(x, scale) * scale

    model = Scaled(step)
    for name, weight in list(model.named_parameters()):
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._parameters[leaf] = nn.Parameter(
            phantom_like(weight.detach(), {name}), requires_grad=False
        )
    inputs = {"x": torch.zeros(1, 4), "scale": torch.ones(4)}
    assert find_structure(model, Reference(inputs), block_levels(model)).carried == ("scale",)


def repeated(model: Chain, at: int, value: Any, _: Any) -> Any:
    return model.blocks[at](model.blocks[at](value))


def skipped(model: Chain, at: int, value: Any, _: Any) -> Any:
    return value if at == 1 else model.blocks[at](value)


def shortcut(model: Chain, at: int, value: Any, first: Any) -> Any:
    return model.blocks[at](value) + (first if at == 2 else 0)


def residual(model: Chain, at: int, value: Any, _: Any) -> Any:
    if at == 1:
        model.kept = value
    return model.blocks[at](value) + (model.kept if at == 2 else 0)


def ignoring(model: Chain, at: int, value: Any, _: Any) -> Any:
    return model.blocks[at](torch.zeros_like(value) if at else value)


def borrowing(model: Chain, at: int, value: Any, _: Any) -> Any:
    return model.blocks[at](value) * model.blocks[0].bias


def deciding(model: Chain, at: int, value: Any, _: Any) -> Any:
    return model.blocks[at](value) if value.sum() > 0 else value


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (repeated, "not called once and in order"),
        (skipped, "not called once and in order"),
        (shortcut, "uses what the prelude makes of scale, x: a second tensor would cross"),
        (residual, "the head also uses what blocks.0 makes of .*: a second tensor would cross"),
        (ignoring, "no tensor enters blocks.1"),
        (borrowing, "blocks.1 also uses what blocks.0 makes of blocks.0.bias"),
        (deciding, "the model's flow depends on computed values"),
    ],
)
def test_flows_that_are_no_chain_are_refused(step: Callable[..., Any], reason: str) -> None:
    with pytest.raises(SplitError, match=reason):
        traced(step)
