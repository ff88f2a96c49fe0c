"""Convergence of one node to the tables it is named in: what it loads, holds and releases.

Desired state, not commands: whatever came before, the segments a node wants are those that the
newest document gives to its present incarnation, and older ones stay until the door reports
that no request uses them any more. One watermark for each deployment decides which document is
adopted; it does not govern traffic.

    waiting ──(model opened)──► loading ──(all units loaded)──► ready
        └────────────── refused, or does not fit ──► failed
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.effects import (
    CloseModel,
    DropUnits,
    Effects,
    LoadUnits,
    OpenModel,
    ReportStatus,
)
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.node import HoldingReport, HoldingState, ModelReport
from dsi_mqtt.core.table import Segment, Stamp, Table, TableDocument

_ZERO: Final = Stamp(0, "", 0)


@dataclass(slots=True)
class Holding:
    """One segment of one table on this node."""

    stamp: Stamp
    segment: Segment
    state: HoldingState = "waiting"
    reason: str | None = None


@dataclass(slots=True)
class _Model:
    """Everything this node knows of one deployment."""

    spec: Deployment | None = None
    graph: ModelGraph | None = None
    refused: str | None = None
    document: TableDocument | None = None
    seen: tuple[Stamp, Stamp] = (_ZERO, _ZERO)
    oldest_in_use: Stamp = _ZERO
    tables: dict[Stamp, Table] = field(default_factory=dict)
    holdings: dict[tuple[Stamp, str], Holding] = field(default_factory=dict)
    loaded: set[int] = field(default_factory=set)
    loading: UnitRange | None = None
    warm_ms: dict[UnitRange, float] = field(default_factory=dict)


class Holdings:
    """State machine. `weight_cap` is how many bytes of weights this node may hold in all."""

    def __init__(self, node: str, incarnation: str, weight_cap: int) -> None:
        self._me = (node, incarnation)
        self._cap = weight_cap
        self._models: dict[str, _Model] = {}

    # --- questions ----------------------------------------------------------------------------

    def table(self, deployment: str, stamp: Stamp) -> Table | None:
        """A table this node still knows: serving, prepared, or old and in use."""
        model = self._models.get(deployment)
        return model.tables.get(stamp) if model else None

    def document(self, deployment: str) -> TableDocument | None:
        model = self._models.get(deployment)
        return model.document if model else None

    def spec(self, deployment: str) -> Deployment | None:
        model = self._models.get(deployment)
        return model.spec if model else None

    def ready(self, deployment: str, stamp: Stamp, segment: str) -> Holding | None:
        """The holding that can compute this, or None."""
        model = self._models.get(deployment)
        holding = model.holdings.get((stamp, segment)) if model else None
        return holding if holding is not None and holding.state == "ready" else None

    def deployments(self) -> tuple[str, ...]:
        return tuple(self._models)

    def model_reports(self) -> tuple[ModelReport, ...]:
        return tuple(
            ModelReport(name, model.graph, model.refused)
            for name, model in sorted(self._models.items())
            if model.graph is not None or model.refused is not None
        )

    def holding_reports(self) -> tuple[HoldingReport, ...]:
        return tuple(
            HoldingReport(
                name,
                holding.stamp,
                holding.segment.id,
                holding.segment.units,
                holding.state,
                holding.reason,
                model.graph.weight_bytes(holding.segment.units) if model.graph else 0,
                model.warm_ms.get(holding.segment.units),
            )
            for name, model in sorted(self._models.items())
            for _, holding in sorted(model.holdings.items())
        )

    def seen(self) -> dict[str, Stamp]:
        return {name: model.seen[0] for name, model in self._models.items()}

    # --- events -------------------------------------------------------------------------------

    def spec_arrived(self, spec: Deployment) -> Effects:
        model = self._models.setdefault(spec.name, _Model())
        if model.spec == spec:
            return []
        changed = model.spec is not None and model.spec.model != spec.model
        known = model.graph is not None and not changed
        model.spec = spec
        if known:
            return []
        model.graph = model.refused = None
        effects: Effects = []
        if changed:
            model.loaded.clear()
            model.loading = None
            model.warm_ms.clear()
            for holding in model.holdings.values():
                holding.state = "waiting"
            effects.append(CloseModel(spec.name))
        return [*effects, OpenModel(spec), ReportStatus()]

    def spec_gone(self, deployment: str) -> Effects:
        model = self._models.get(deployment)
        if model is None:
            return []
        model.spec = None
        return self._settle(deployment, model)

    def model_opened(self, deployment: str, graph: ModelGraph) -> Effects:
        model = self._models.get(deployment)
        if model is None or model.spec is None:
            return []
        model.graph, model.refused = graph, None
        return [*self._settle(deployment, model), ReportStatus()]

    def model_refused(self, deployment: str, reason: str) -> Effects:
        model = self._models.get(deployment)
        if model is None:
            return []
        model.graph, model.refused = None, reason
        return [*self._settle(deployment, model), ReportStatus()]

    def document_arrived(self, deployment: str, document: TableDocument) -> Effects:
        """Adopts a document that is newer than any seen; others change nothing."""
        model = self._models.setdefault(deployment, _Model())
        if document.order <= model.seen:
            return []
        model.seen = document.order
        model.document = document
        for table in document.tables():
            model.tables[table.stamp] = table
            for segment in table.segments:
                self._want(model, table, segment)
        return [*self._settle(deployment, model), ReportStatus()]

    def oldest_in_use(self, deployment: str, stamp: Stamp) -> Effects:
        """The door of the serving table says which tables its requests still use."""
        model = self._models.get(deployment)
        if model is None or stamp <= model.oldest_in_use:
            return []
        model.oldest_in_use = stamp
        return self._settle(deployment, model)

    def units_loaded(self, deployment: str, units: UnitRange, warm_ms: float | None) -> Effects:
        model = self._models.get(deployment)
        if model is None or model.loading != units:
            return []
        model.loading = None
        model.loaded.update(range(*units))
        if warm_ms is not None:
            model.warm_ms[units] = warm_ms
        return [*self._settle(deployment, model), ReportStatus()]

    def units_failed(self, deployment: str, units: UnitRange, reason: str) -> Effects:
        model = self._models.get(deployment)
        if model is None or model.loading != units:
            return []
        model.loading = None
        for holding in model.holdings.values():
            if holding.state == "loading" and holding.segment.units == units:
                holding.state, holding.reason = "failed", reason
        return [*self._settle(deployment, model), ReportStatus()]

    # --- convergence --------------------------------------------------------------------------

    def _want(self, model: _Model, table: Table, segment: Segment) -> None:
        named = {(r.node, r.incarnation) for r in segment.replicas}
        key = (table.stamp, segment.id)
        if self._me in named and key not in model.holdings:
            model.holdings[key] = Holding(table.stamp, segment)

    def _settle(self, deployment: str, model: _Model) -> Effects:
        effects = self._release(deployment, model)
        if model.refused is not None:
            for holding in model.holdings.values():
                holding.state, holding.reason = "failed", model.refused
            return effects
        if model.graph is None or model.spec is None:
            return effects
        for key in sorted(model.holdings):
            holding = model.holdings[key]
            if holding.state in ("waiting", "loading") and self._complete(model, holding):
                holding.state = "ready"
                effects.append(ReportStatus())
        if model.loading is None:
            effects += self._load_next(deployment, model)
        return effects

    def _release(self, deployment: str, model: _Model) -> Effects:
        """Lets go of tables nobody uses, then of units no holding needs."""
        current = {t.stamp for t in model.document.tables()} if model.document else set()
        serve = model.document.serve if model.document else None
        unused = serve is None or serve.door is None
        for stamp in [s for s in model.tables if s not in current]:
            if unused or stamp < model.oldest_in_use:
                del model.tables[stamp]
        gone = [key for key in model.holdings if key[0] not in model.tables]
        for key in gone:
            del model.holdings[key]
        needed = {u for h in model.holdings.values() for u in range(*h.segment.units)}
        effects: Effects = [DropUnits(deployment, run) for run in _runs(model.loaded - needed)]
        model.loaded &= needed
        if gone:
            effects.append(ReportStatus())
        described = model.graph is not None or model.refused is not None
        if model.spec is None and not model.holdings and described:
            model.graph = model.refused = None  # the watermark stays
            effects += [CloseModel(deployment), ReportStatus()]
        return effects

    def _load_next(self, deployment: str, model: _Model) -> Effects:
        for key in sorted(model.holdings):
            holding = model.holdings[key]
            if holding.state not in ("waiting", "loading"):
                continue
            shortage = self._shortage(deployment, holding)
            if shortage:
                holding.state, holding.reason = "failed", shortage
                return [ReportStatus(), *self._load_next(deployment, model)]
            holding.state = "loading"
            model.loading = holding.segment.units
            return [LoadUnits(deployment, holding.segment.units), ReportStatus()]
        return []

    def _complete(self, model: _Model, holding: Holding) -> bool:
        # Warm means measured: a segment whose units came with others still gets its first pass.
        units = holding.segment.units
        return units in model.warm_ms and model.loaded.issuperset(range(*units))

    def _shortage(self, deployment: str, holding: Holding) -> str | None:
        """Why `holding` does not fit beside what is loaded, or None."""
        total = 0
        for name, model in self._models.items():
            if model.graph is None:
                continue
            units = set(model.loaded)
            if name == deployment:
                units.update(range(*holding.segment.units))
            total += sum(model.graph.weight_bytes(run) for run in _runs(units))
        if total <= self._cap:
            return None
        mib = 1024 * 1024
        return (
            f"segment {holding.segment.id} would make {total / mib:.1f} MiB of weights here, "
            f"the cap is {self._cap / mib:.1f} MiB"
        )


def _runs(units: set[int]) -> list[UnitRange]:
    """Maximal contiguous ranges of `units`, in order."""
    runs: list[UnitRange] = []
    for unit in sorted(units):
        if runs and runs[-1].stop == unit:
            runs[-1] = UnitRange(runs[-1].start, unit + 1)
        else:
            runs.append(UnitRange(unit, unit + 1))
    return runs
