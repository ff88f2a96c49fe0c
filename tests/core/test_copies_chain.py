"""Generations that go to other nodes with their caches: a whole chain on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.message import Activation
from dsi_mqtt.core.table import TransferMode
from tests.core.harness import Node, Site
from tests.core.harness_generation import GeneratingClient, GeneratingNode, generating_site
from tests.core.test_generation_chain import (
    EndlessNode,
    check_rest,
    check_step,
    client_of,
    come_to_rest,
    heard,
)
from tests.thoroughness import examples

# What may befall a copy on its way; the checksum makes of damage a copy that broke.
FATES = ("comes", "lost", "twice", "late", "torn")


def intercept(site: Site, fate: Callable[[], str]) -> None:
    """Has something befall each copy of a cache that is sent."""
    passed = site.transmit

    def transmit(sender: Node, receiver: str, activation: Activation) -> None:
        header = activation.header
        if header.copy is None or not activation.tensors:
            passed(sender, receiver, activation)
            return
        match fate():
            case "comes":
                passed(sender, receiver, activation)
            case "twice":
                passed(sender, receiver, activation)
                passed(sender, receiver, activation)
            case "late":
                site.after(1.5, lambda: site._deliver(receiver, activation))
            case "torn":
                site.nodes[receiver].soon(0.003, ev.ActivationBroke(header))

    site.transmit = transmit  # type: ignore[method-assign]


def play(seed: int, mode: TransferMode, fate: Callable[[], str] | None = None) -> Site:
    """Twelve generations, and five moves beside them."""
    site = generating_site(seed)
    site.maker.modes = (mode,)
    site.check = check_step
    if fate is not None:
        intercept(site, fate)
    for at in (1.0, 3.0, 5.0, 5.8, 6.6):
        site.after(at, lambda: setattr(site.maker, "moving", True))
    client = client_of(site)
    for number in range(12):
        words = site.rng.choice([1, 3, 20, 300])
        client.ask(f"w{number} " * words, max_tokens=site.rng.randint(1, 30))
        site.run(site.rng.uniform(0.0, 1.0))
    come_to_rest(site)
    client.check()
    check_rest(site)
    return site


def counted(site: Site) -> tuple[int, int]:
    """Positions computed, and copies taken in."""
    nodes = [node for node in site.alive() if isinstance(node, GeneratingNode)]
    return sum(node.positions for node in nodes), sum(node.imported for node in nodes)


def test_moved_caches_spare_computing_and_change_no_text() -> None:
    computed: dict[TransferMode, int] = {"copy": 0, "recompute": 0}
    copies = dict(computed)
    for seed in range(6):
        for mode in computed:
            positions, imported = counted(play(seed, mode))
            computed[mode] += positions
            copies[mode] += imported
    assert copies["copy"] > 0 == copies["recompute"]
    assert computed["copy"] < 0.85 * computed["recompute"]


@pytest.mark.parametrize("fate", FATES[1:])
def test_whatever_befalls_all_copies_no_text_changes(fate: str) -> None:
    for seed in range(2):
        play(seed, "copy", lambda: fate)


@settings(max_examples=examples(10))
@given(seed=st.integers(0, 2**32), fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=9))
def test_whatever_befalls_some_copies_no_text_changes(seed: int, fates: list[str]) -> None:
    waiting: list[str] = []

    def fate() -> str:
        waiting.extend([] if waiting else fates)
        return waiting.pop()

    play(seed, "copy", fate)


@dataclass
class Listened:
    """When each generation heard anything."""

    site: Site
    times: dict[bytes | None, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        client = client_of(self.site)
        hear = client.hear

        def listen(id_: bytes | None, partial: object) -> None:
            self.times.setdefault(id_, []).append(self.site.now)
            hear(id_, partial)  # type: ignore[arg-type]

        client.hear = listen  # type: ignore[method-assign]

    def longest_s(self, id_: bytes, since: float) -> float:
        return max(b - a for a, b in pairwise(t for t in self.times[id_] if t >= since))


def long_texts(mode: TransferMode, seed: int, prompt: int = 200) -> tuple[Site, list[bytes], float]:
    """Five that have begun, on nodes where a position takes 2 ms."""
    site = Site(seed, node=EndlessNode, client=GeneratingClient)
    site.maker.modes = (mode,)
    for node in site.alive():
        assert isinstance(node, GeneratingNode)
        node.slow_s = 0.002
    client = client_of(site)
    asked = [
        client.ask(f"w{n} " * prompt, max_tokens=390 - prompt, temperature=0) for n in range(5)
    ]
    assert site.run_until(lambda: all(len(heard(client, id_)) > 4 for id_ in asked), 60.0)
    return site, asked, site.now


@pytest.mark.parametrize("seed", range(3))
def test_who_is_moved_with_its_caches_hardly_waits(seed: int) -> None:
    paused: dict[TransferMode, float] = {}
    for mode in ("recompute", "copy"):
        site, asked, since = long_texts(mode, seed)
        listened = Listened(site)
        site.maker.moving = True
        site.run(5.0)
        paused[mode] = max(listened.longest_s(id_, since) for id_ in asked)
    assert paused["copy"] < 0.25
    assert paused["recompute"] > 1.0


def test_nobody_starves_where_tables_change_all_the_time() -> None:
    site, asked, _ = long_texts("copy", 1)
    client = client_of(site)
    before = {id_: len(heard(client, id_)) for id_ in asked}
    for _ in range(5):
        site.maker.moving = True
        site.run(0.8)
    for id_ in asked:
        assert len(heard(client, id_)) > before[id_] + 20
    assert all(len(told) == 1 for told in (client.tellings[id_] for id_ in asked))


def test_layers_that_stay_do_not_move() -> None:
    """All that is sent of caches is of units that change their node."""
    site, _, _ = long_texts("copy", 2)
    sent: list[tuple[str, str]] = []
    passed = site.transmit

    def transmit(sender: Node, receiver: str, activation: Activation) -> None:
        if activation.tensors and activation.header.copy is not None:
            sent.append((sender.name, receiver))
        passed(sender, receiver, activation)

    site.transmit = transmit  # type: ignore[method-assign]
    site.maker.moving = True
    site.run(5.0)
    assert sent
    assert all(source != target for source, target in sent)
