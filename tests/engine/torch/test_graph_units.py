"""Where a graph is cut: even work, little that crosses, the same cuts on every machine."""

from __future__ import annotations

from itertools import combinations, pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dsi_mqtt.engine.torch.graph_export import export_graph
from dsi_mqtt.engine.torch.graph_flow import Flow, find_flow
from dsi_mqtt.engine.torch.graph_units import choose_cuts
from tests.thoroughness import examples

MIB = 1 << 20


def grown(shares: list[int]) -> list[int]:
    """Work before each cut."""
    done = [0]
    for share in shares:
        done.append(done[-1] + share)
    return done


def price(cuts: list[int], work: list[int], crossing: list[int | None]) -> float:
    """What is to be least, in other words than in the code."""
    usual = sorted(size for size in crossing if size is not None)
    usual_size = max(1, usual[len(usual) // 4]) if usual else 1
    total = max(1, work[-1])
    even = sum((40 * (work[stop] - work[start]) / total) ** 2 / 2 for start, stop in pairwise(cuts))
    return even + sum(1 + min(10**4, (crossing[cut] or 0) / usual_size) for cut in cuts[1:])


graphs = st.lists(
    st.tuples(st.integers(0, 1000), st.one_of(st.none(), st.integers(1, 5000))),
    min_size=1,
    max_size=8,
)


@given(graphs)
@settings(max_examples=examples(150))
def test_no_other_cuts_are_cheaper(steps: list[tuple[int, int | None]]) -> None:
    work = grown([share for share, _ in steps])
    crossing = [100, *(size for _, size in steps)]
    ends = len(steps)
    cuts = choose_cuts(work, crossing)
    assert cuts[0] == 0
    assert cuts[-1] == ends
    assert all(crossing[cut] is not None for cut in cuts[1:-1])
    inner = [cut for cut in range(1, ends) if crossing[cut] is not None]
    least = min(
        price([0, *some, ends], work, crossing)
        for count in range(len(inner) + 1)
        for some in combinations(inner, count)
    )
    assert price(cuts, work, crossing) <= least + 1e-3


def test_a_smaller_cut_near_wins() -> None:
    crossing: list[int | None] = [MIB, *([40 * MIB, 40 * MIB, MIB, 40 * MIB] * 50)]
    cuts = choose_cuts(grown([10] * 200), crossing)
    assert {crossing[cut] for cut in cuts[:-1]} == {MIB}
    assert len(cuts) > 15


def test_there_are_not_too_many_units_and_they_are_even() -> None:
    cuts = choose_cuts(grown([7] * 5000), [MIB] * 5001)
    assert 10 < len(cuts) < 64
    sizes = [stop - start for start, stop in pairwise(cuts)]
    assert max(sizes) - min(sizes) <= 1


def test_a_graph_without_work_is_one_unit() -> None:
    assert choose_cuts([0, 0, 0], [8, 8, 8]) == [0, 2]
    assert choose_cuts([0], [8]) == [0]


class Past(nn.Module):
    """A list of tensors, a table made of weights, a mask made of sizes, and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 4))
        self.layer = nn.Linear(4, 4)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        table = self.table.softmax(0)
        mask = torch.ones(value.shape[1], value.shape[1]).tril()
        value = value @ table
        first, second = value.chunk(2, -1)
        value = torch.cat([second.sin(), first], -1)
        value = mask @ self.layer(value)
        return (value @ table).reshape(value.shape[0], -1)


def names(flow: Flow, before: str) -> tuple[set[str], int]:
    place = [step.name for step in flow.steps].index(before)
    boundary = flow.boundary(place)
    return {node.name for node in boundary.tensors}, len(boundary.numbers)


def test_what_is_alive_crosses_and_nothing_else() -> None:
    flow = find_flow(export_graph(Past(), {"value": torch.zeros(1, 3, 4)}, fixed=False))
    assert {step.name for step in flow.loose} >= {"softmax", "ones", "tril"}
    crossing, sizes = names(flow, "linear")
    assert crossing == {"cat"}
    assert sizes == 2
    assert names(flow, "cat")[0] == {"getitem", "sin"}
    assert names(flow, flow.steps[0].name)[0] == {"value"}
    listed = flow.crossing([step.name for step in flow.steps].index("getitem"))
    assert [node.name for node in listed if node.meta["made"] is list] == ["chunk"]
    assert [node.meta["made"].sizes for node in flow.boundary(flow.ends).tensors] == [(None, None)]
