"""The sites on which policies are compared, and what befalls them: docs/evaluation.md.

Figures of hardware are those that a worker measures (GFLOP/s of float32, which for boards and
servers of these kinds are 10 to 900). Models are told by their shapes, with activations in int8
groups of 64 (8.25 of 32 bits).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from dsi_mqtt.core.deployment import Deployment, Policy, Prices, Privacy, Sla
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.sim.scenario import Fault, Group, Line, Requests, Scenario

# One set for all sites, chosen before they were run.
POLICY: Final = Policy()
DURATION_S: Final = 720.0
CONSTANT_S: Final = 300.0
FROM_S: Final = 15.0
TRACED: Final = Line(trace="any")
# A link of each kind where nothing changes: about the median of recorded drives.
CONSTANT: Final = (12.0, 10.0, 9.0, 8.0)
CONSTANT_RTT_MS: Final = 76.0
SUFFIX: Final = "-constant"
PRICES: Final = Prices("EUR", {"default": 0.02, "cloud": 0.6}, {"default": 0.0, "cloud": 0.09})
# What a fake model's milliseconds mean: those of a machine of 10 GFLOP/s.
_MS_PER_GFLOP: Final = 100.0
_INT8: Final = 8.25 / 32


@dataclass(frozen=True, slots=True)
class Site:
    """groups: its nodes; those whose link is `TRACED` follow recorded links. rate_per_s: of inputs.

    about: one sentence for the report.
    """

    name: str
    about: str
    groups: tuple[Group, ...]
    deployment: Deployment
    rate_per_s: float

    @property
    def traced(self) -> tuple[str, ...]:
        return tuple(n for g in self.groups if g.link == TRACED for n in g.names())


def _model(
    gflop: Iterable[float], mib: Iterable[float], crossing_kib: Iterable[float], input_kib: float
) -> ModelSpec:
    costs = tuple(round(each * _MS_PER_GFLOP, 3) for each in gflop)
    options = {
        "units": len(costs),
        "unit_ms": costs,
        "weight_mib": tuple(mib),
        "crossing_kib": tuple(crossing_kib),
        "input_kib": input_kib,
        "result_kib": 1.0,
    }
    return ModelSpec(tier="fake", options=options)


def _vit_small() -> ModelSpec:
    """ViT-S/16 at 224 pixels, two blocks a unit: 197 tokens of 384 features, 22 M parameters."""
    crossing = round(197 * 384 * 4 * _INT8 / 1024, 1)
    return _model(
        (0.23, *[1.5] * 6, 0.01),
        (1.5, *[13.6] * 6, 1.5),
        [crossing] * 8,
        40.0,
    )


def _resnet18() -> ModelSpec:
    """ResNet-18 at 224 pixels, cut between its blocks: what crosses halves from stage to stage."""
    values = (64 * 56 * 56,) * 3 + (128 * 28 * 28,) * 2 + (256 * 14 * 14,) * 2 + (512 * 7 * 7,) * 3
    return _model(
        (0.24, 0.46, 0.46, 0.36, 0.46, 0.36, 0.46, 0.36, 0.46, 0.001),
        (0.04, 0.3, 0.3, 0.9, 1.1, 3.5, 4.5, 14.0, 18.0, 2.0),
        [round(each * 4 * _INT8 / 1024, 1) for each in values],
        40.0,
    )


def _deployment(
    name: str, model: ModelSpec, latency_ms: float, rate_per_s: float, privacy: Privacy
) -> Deployment:
    sla = Sla(latency_ms=latency_ms, rate_per_s=rate_per_s, deadline_ms=4 * latency_ms)
    return Deployment(name, model, sla=sla, privacy=privacy, prices=PRICES, policy=POLICY)


def _smart_city() -> Site:
    fibre = Line(900.0, 900.0, 1.0)
    groups = (
        Group("gate", 2, zone="city", memory_mib=48, gflops=12, spread=0.05, link=fibre),
        Group("mast", 2, zone="district", memory_mib=512, gflops=120, spread=0.05, link=TRACED),
        Group("cloud", zone="cloud", memory_mib=16384, gflops=900, spread=0.05, link=TRACED),
    )
    privacy = Privacy({"0:1": ("city",), "7:8": ("city",)})
    return Site(
        "smart-city",
        "Camera frames into a vision transformer: the first units, which see them, and the last "
        "one run on the city's own gates; two masts and the cloud are reached over cells.",
        groups,
        _deployment("frames", _vit_small(), 600.0, 3.0, privacy),
        3.0,
    )


def _v2x() -> Site:
    wired = Line(100.0, 100.0, 3.0)
    groups = (
        Group("rsu", 3, zone="road", memory_mib=12, gflops=12, spread=0.05, link=wired),
        Group("mec", 3, zone="mec", memory_mib=512, gflops=150, spread=0.05, link=TRACED),
        Group("cloud", zone="cloud", memory_mib=16384, gflops=900, spread=0.05, link=TRACED),
    )
    return Site(
        "v2x",
        "Frames at a crossing into a residual network: small roadside units see them and hold its "
        "first stages only; three edge servers and the cloud are reached over 5G. Later cuts send "
        "less and compute more at the road.",
        groups,
        _deployment("hazards", _resnet18(), 500.0, 3.0, Privacy({"0:1": ("road",)})),
        3.0,
    )


def _industry() -> Site:
    wired = Line(95.0, 95.0, 2.0)
    groups = (
        Group("line", 2, zone="plant", memory_mib=40, gflops=15, spread=0.05, link=wired),
        Group("hall", 3, zone="plant", memory_mib=64, gflops=200, spread=0.05, link=TRACED),
        Group("cloud", zone="cloud", memory_mib=16384, gflops=900, link=wired),
    )
    return Site(
        "industry",
        "Inspection of parts by a vision transformer that may not leave the plant and that no "
        "node can hold alone: slow gateways at the lines, servers in halls coupled by 5G.",
        groups,
        _deployment("parts", _vit_small(), 600.0, 2.5, Privacy({"0:8": ("plant",)})),
        2.5,
    )


def sites() -> dict[str, Site]:
    made = (_smart_city(), _v2x(), _industry())
    return {site.name: site for site in made}


def names() -> tuple[str, ...]:
    """Of all scenarios: each site as it is disturbed, and with links that never change."""
    known = tuple(sites())
    return (*known, *(name + SUFFIX for name in known))


def is_constant(name: str) -> bool:
    return name.endswith(SUFFIX)


def site_of(name: str) -> Site:
    """Raises ConfigError."""
    found = sites().get(name.removesuffix(SUFFIX))
    if found is None:
        raise ConfigError(f"--scenario: there is none {name!r:.40}; known are {', '.join(names())}")
    return found


def scenario(name: str, seed: int) -> Scenario:
    """The one of that name as the seed draws it. Raises ConfigError."""
    site = site_of(name)
    if is_constant(name):
        steady = Requests(site.deployment.name, rate_per_s=site.rate_per_s, from_s=FROM_S)
        return Scenario(
            tuple(_constant(site)),
            (site.deployment,),
            (steady,),
            duration_s=CONSTANT_S,
            seed=seed,
        )
    random = Random(f"{name}/{seed}")  # noqa: S311 - it must be repeatable
    return Scenario(
        site.groups,
        (site.deployment,),
        tuple(_requests(site, random)),
        tuple(_faults(site, random)),
        duration_s=DURATION_S,
        seed=seed,
    )


def _constant(site: Site) -> Iterable[Group]:
    """The same nodes, each traced one with a rate of its own."""
    rates = iter(CONSTANT)
    for group in site.groups:
        if group.link != TRACED:
            yield group
            continue
        for name in group.names():
            rate = next(rates)
            yield replace(group, id=name, count=1, link=Line(rate, rate, CONSTANT_RTT_MS))


def _requests(site: Site, random: Random) -> Iterable[Requests]:
    """A steady stream, and two spikes in which twice as many come."""
    yield Requests(site.deployment.name, rate_per_s=site.rate_per_s, from_s=FROM_S)
    for earliest in (225.0, 525.0):
        at = random.uniform(earliest, earliest + 50)
        lasts = random.uniform(20, 30)
        yield Requests(
            site.deployment.name, rate_per_s=site.rate_per_s, from_s=at, until_s=at + lasts
        )


def _faults(site: Site, random: Random) -> Iterable[Fault]:
    """Two links at 5 to 10 % of their rates for 80 to 150 s, and the loss of a node for 30 s."""
    first, second, *_ = random.sample(site.traced, len(site.traced))
    for node, earliest in ((first, 60.0), (second, 340.0)):
        yield Fault(
            round(random.uniform(earliest, earliest + 60), 3),
            round(random.uniform(80, 150), 3),
            throttle=node,
            factor=round(random.uniform(0.05, 0.1), 4),
        )
    yield Fault(round(random.uniform(600, 650), 3), 30.0, kill=random.choice(site.traced))
