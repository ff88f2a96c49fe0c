"""When a placement should be thought over: what it was chosen by is no longer so.

A plan depends on figures of nodes: how far and how wide their links are, how fast they compute; and
on how many requests come. Those that it was chosen by are kept, and each that is told anew is held
against them. Figures are levels already (`core/level.py`), which noise does not move, so a
difference of a quarter calls for another look. That costs a comparison for each word of a node;
nothing is computed while nothing changes. Whether anything should be moved, the look decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.core.estimate import SERVED_MIN
from dsi_mqtt.core.node import LinkSample, NodeStatus, Telemetry
from dsi_mqtt.core.offered import Coming
from dsi_mqtt.core.profile import Link, link_of, usual_link

# A figure that differs by less calls for nothing.
FACTOR: Final = 1.25
# Nor does a round trip that differs by less: within a site nothing is nearer.
RTT_MS: Final = 1.0
# Seconds between looks, and how many more for each node that a look has to consider: it then takes
# about a hundredth of the time of one core.
LOOK_S: Final = 1.0
LOOK_NODE_S: Final = 0.01


Loads = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a node has told. rates: up and down, in Mbit/s. compute_ms: of a request, by units.

    measured: one of the rates, or both.
    """

    incarnation: str
    measured: bool
    rtt_ms: float
    rates: tuple[float, float]
    compute_ms: Loads

    @classmethod
    def of(cls, telemetry: Telemetry, deployment: str, usual: Link) -> Figures:
        """usual: what is assumed where it has not measured."""
        link = link_of(telemetry.link, usual)
        return cls(
            telemetry.incarnation,
            telemetry.link.up_mbit_s is not None or telemetry.link.down_mbit_s is not None,
            link.rtt_ms,
            (link.up_mbit_s, link.down_mbit_s),
            {
                str(load.units): load.compute_ms
                for load in telemetry.segments
                if load.deployment == deployment
                and load.requests >= SERVED_MIN
                and load.compute_ms is not None
                and 0 < load.compute_ms < math.inf
            },
        )


class Sensing:
    """Of one deployment. deployment: its name."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._known: dict[str, Figures] = {}
        self._usual = Link()
        self._coming = Coming()
        self._at = -math.inf

    def chosen(
        self,
        reports: Iterable[tuple[NodeStatus, Telemetry | None]],
        coming: Coming,
        now: float,
    ) -> None:
        """A placement was thought about, with what nodes have told, and for what comes."""
        told = [
            telemetry
            for status, telemetry in reports
            if telemetry is not None and telemetry.incarnation == status.incarnation
        ]
        self._usual = usual_link(telemetry.link for telemetry in told)
        self._known = {t.node: Figures.of(t, self._deployment, self._usual) for t in told}
        self._coming, self._at = coming, now

    def measured(self, nodes: Iterable[str]) -> bool:
        """Whether all these had measured their links when a placement was last thought about."""
        return all(name in self._known and self._known[name].measured for name in nodes)

    def looks(self, now: float) -> None:
        """Somebody has begun to think about it."""
        self._at = now

    def looked_s(self, now: float) -> float:
        """Seconds since that."""
        return now - self._at

    def look_at(self) -> float:
        """When to think about it again at the earliest."""
        return self._at + LOOK_S + LOOK_NODE_S * len(self._known)

    def heard(self, telemetry: Telemetry, *, serves: bool) -> str | None:
        """What has changed; None: nothing that matters. serves: the node is part of the chain."""
        figures = Figures.of(telemetry, self._deployment, self._usual)
        known = self._known.get(telemetry.node)
        if known is None or known.incarnation != figures.incarnation:
            silent = replace(telemetry, link=LinkSample(), segments=())
            known = Figures.of(silent, self._deployment, self._usual)
        return next(
            (
                f"node {telemetry.node}: {name} is {after:.3g} {unit}, {_told(before)} before"
                for name, unit, before, after, better in _pairs(known, figures)
                if (serves or better) and _differs(before, after, unit)
            ),
            None,
        )

    def offered(self, coming: Coming) -> str | None:
        """The same of what comes."""
        return next(
            (
                f"{after:.3g} {unit} come, {before:.3g} before"
                for before, after, unit in _offers(self._coming, coming)
                if _differs(before, after, unit)
            ),
            None,
        )


def _offers(known: Coming, coming: Coming) -> Iterable[tuple[float, float, str]]:
    yield known.rate_per_s, coming.rate_per_s, "requests/s"
    if coming.texts is not None:
        before = known.texts or coming.texts
        yield before.prompt_tokens, coming.texts.prompt_tokens, "tokens in a prompt"
        yield before.new_tokens, coming.texts.new_tokens, "tokens in a text"


def _told(before: float) -> str:
    return f"{before:.3g}" if before else "estimated"


def _pairs(known: Figures, figures: Figures) -> Iterable[tuple[str, str, float, float, bool]]:
    """(name, unit, before, after, whether after is better)."""
    for name, before, after in zip(
        ("its uplink", "its downlink"), known.rates, figures.rates, strict=True
    ):
        yield name, "Mbit/s", before, after, after > before
    yield "its round trip", "ms", known.rtt_ms, figures.rtt_ms, figures.rtt_ms < known.rtt_ms
    for units, after in figures.compute_ms.items():
        before = known.compute_ms.get(units, 0.0)  # 0: it was estimated
        yield f"computing {units}", "ms", before, after, after < before


def _differs(before: float, after: float, unit: str) -> bool:
    if unit == "ms" and abs(after - before) < RTT_MS:
        return False
    low, high = sorted((before, after))
    return high > FACTOR * low
