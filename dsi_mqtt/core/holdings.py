"""Convergence of one node to the tables it is named in: what it loads, holds and releases.

Desired state, not commands: whatever came before, the segments a node wants are those that the
newest document gives to its present incarnation, and what served before stays until the doors
report that no request uses it any more. One watermark for each deployment decides which document
is adopted; it does not govern traffic.

    waiting ──(model opened, room for it)──► loading ──(loaded and warm)──► ready
        └── model refused or another than the table's, too large for this node ──► failed

A holding waits for room that a release will make; it fails when what this node is asked to hold
now does not fit at all. A model that is opened (again) holds nothing. One that was refused is
looked at again after growing pauses, and at once when its deployment is published again: a folder
may have come, or been mended, meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dsi_mqtt.core.deployment import FALLBACK_MARK, Deployment
from dsi_mqtt.core.effects import (
    CloseModel,
    DropUnits,
    Effects,
    LoadUnits,
    OpenModel,
    ReportStatus,
)
from dsi_mqtt.core.model import ModelGraph, ModelSpec, UnitRange, runs
from dsi_mqtt.core.node import HoldingReport, HoldingState, ModelReport
from dsi_mqtt.core.room import cache_bytes
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import Segment, Stamp, Table, TableDocument

AGAIN_FIRST_S: Final = 5.0
AGAIN_MAX_S: Final = 300.0
_ZERO: Final = Stamp(0, "", 0)


@dataclass(slots=True)
class Holding:
    """One segment of one table on this node. too_large: it failed for want of room only. standby:
    it is held for when another node dies, and yields to all else.
    """

    stamp: Stamp
    segment: Segment
    standby: bool = False
    state: HoldingState = "waiting"
    reason: str | None = None
    too_large: bool = False

    @property
    def wanting(self) -> bool:
        return self.state == "waiting" or self.too_large


@dataclass(slots=True)
class _Model:
    """Everything this node knows of one deployment.

    opened: what the shell was last told to open, and how, until it is closed; opening: its name.
    again_at, again_s: when a refused one is looked at again, and how long that pause is. loaded
    and loading tell what its engine has, or will have.
    """

    spec: Deployment | None = None
    opened: tuple[ModelSpec, int | None] | None = None
    opening: str = ""
    graph: ModelGraph | None = None
    codec_errors: Mapping[str, float] = field(default_factory=dict)
    refused: str | None = None
    again_at: float = math.inf
    again_s: float = 0.0
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

    def tables(self, deployment: str) -> tuple[Table, ...]:
        """All of them, of whichever model of the deployment."""
        model = self._models.get(deployment)
        return tuple(model.tables.values()) if model else ()

    def document(self, deployment: str) -> TableDocument | None:
        model = self._models.get(deployment)
        return model.document if model else None

    def spec(self, deployment: str) -> Deployment | None:
        model = self._models.get(deployment)
        return model.spec if model else None

    def graph(self, deployment: str) -> ModelGraph | None:
        """The model as it is open here."""
        model = self._models.get(deployment)
        return model.graph if model else None

    def ready(self, deployment: str, stamp: Stamp, segment: str) -> Holding | None:
        """The holding that can compute this, or None."""
        model = self._models.get(deployment)
        holding = model.holdings.get((stamp, segment)) if model else None
        return holding if holding is not None and holding.state == "ready" else None

    def deployments(self) -> tuple[str, ...]:
        return tuple(name for name in self._models if not name.endswith(FALLBACK_MARK))

    def model_reports(self) -> tuple[ModelReport, ...]:
        return tuple(
            ModelReport(
                name,
                model.graph,
                model.refused,
                _cache_bytes(model),
                model.opening,
                dict(model.codec_errors),
            )
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

    def has_parts(self) -> bool:
        """Whether it computes any, or is to; standing by is none."""
        return any(
            not holding.standby
            for model in self._models.values()
            for holding in model.holdings.values()
        )

    def seen(self) -> dict[str, Stamp]:
        return {name: self._models[name].seen[0] for name in self.deployments()}

    # --- events -------------------------------------------------------------------------------

    def spec_arrived(self, spec: Deployment) -> Effects:
        effects, other = self._model_wanted(spec), spec.falls_back_to
        if other is None:
            return [*effects, *self._model_unwanted(spec.name + FALLBACK_MARK)]
        known = self.document(spec.name)
        if known is not None:
            effects += self._adopts(other.name, known)
        return [*effects, *self._model_wanted(other)]

    def _model_wanted(self, spec: Deployment) -> Effects:
        model = self._models.setdefault(spec.name, _Model())
        if model.spec == spec and model.refused is None:
            return []
        model.spec = spec
        if model.opened == spec.opens and model.refused is None:
            return self._settle(spec.name, model)
        effects = self._close(spec.name, model)
        model.opened, model.opening = spec.opens, spec.opening
        return [*effects, OpenModel(spec), ReportStatus()]

    def spec_gone(self, deployment: str) -> Effects:
        fallback = self._model_unwanted(deployment + FALLBACK_MARK)
        return [*fallback, *self._model_unwanted(deployment)]

    def _model_unwanted(self, deployment: str) -> Effects:
        model = self._models.get(deployment)
        if model is None:
            return []
        model.spec = None
        return self._settle(deployment, model)

    def model_opened(
        self, deployment: str, graph: ModelGraph, codec_errors: Mapping[str, float] | None = None
    ) -> Effects:
        model = self._models.get(deployment)
        if model is None or model.opened is None:
            return [CloseModel(deployment)]  # nobody wants it any more
        self._hold_nothing(model)
        model.graph, model.again_at, model.again_s = graph, math.inf, 0.0
        model.codec_errors = codec_errors or {}
        return [*self._settle(deployment, model), ReportStatus()]

    def model_refused(self, deployment: str, reason: str, now: float) -> Effects:
        model = self._models.get(deployment)
        if model is None or model.opened is None:
            return []
        model.again_s = min(max(AGAIN_FIRST_S, 2 * model.again_s), AGAIN_MAX_S)
        model.again_at = now + model.again_s
        if model.refused == reason:
            return []
        self._hold_nothing(model)
        model.refused = reason
        return [*self._settle(deployment, model), ReportStatus()]

    def tick(self, now: float) -> Effects:
        """Has what was refused opened again. Until the answer it stays refused."""
        effects: Effects = []
        for model in self._models.values():
            if model.again_at <= now and model.spec is not None:
                model.again_at = math.inf
                effects.append(OpenModel(model.spec))
        return effects

    def next_tick(self) -> float:
        """The earliest time at which a tick does anything, unless an event comes before."""
        return min(
            (m.again_at for m in self._models.values() if m.spec is not None), default=math.inf
        )

    def document_arrived(self, deployment: str, document: TableDocument) -> Effects:
        """Adopts a document that is newer than any seen; others change nothing."""
        fallback = deployment + FALLBACK_MARK
        effects: Effects = []
        if fallback in self._models or any(table.is_fallback for table in document.tables()):
            effects += self._adopts(fallback, document)
        return [*effects, *self._adopts(deployment, document)]

    def _adopts(self, deployment: str, document: TableDocument) -> Effects:
        """All tables are known to both models of a deployment, and each holds its own parts."""
        model = self._models.setdefault(deployment, _Model())
        if document.order <= model.seen:
            return []
        model.seen = document.order
        model.document = document
        for table in document.tables():
            model.tables[table.stamp] = table
            for segment in table.segments if table.model_name == deployment else ():
                self._want(model, table, segment)
        return [*self._settle(deployment, model), ReportStatus()]

    def tables_over(self, deployment: str) -> Effects:
        """Its table is not retained any more: what it named is not to be held."""
        effects: Effects = []
        for name in (deployment + FALLBACK_MARK, deployment):
            model = self._models.get(name)
            if model is not None:
                model.document = None
                model.tables.clear()
                effects += self._settle(name, model)
        return effects

    def oldest_in_use(self, deployment: str, stamp: Stamp) -> Effects:
        """No request uses a table older than `stamp` any more, say the doors."""
        fallback = self._let_go_below(deployment + FALLBACK_MARK, stamp)
        return [*fallback, *self._let_go_below(deployment, stamp)]

    def _let_go_below(self, deployment: str, stamp: Stamp) -> Effects:
        model = self._models.get(deployment)
        if model is None or stamp <= model.oldest_in_use:
            return []
        model.oldest_in_use = stamp
        return self._settle(deployment, model)

    def units_loaded(self, deployment: str, units: UnitRange, warm_ms: float) -> Effects:
        model = self._models.get(deployment)
        if model is None or model.loading != units:
            return []
        model.loading = None
        model.loaded.update(range(*units))
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
        warm = {(s.node, s.incarnation) for s in segment.standbys if s.level == "warm"}
        key = (table.stamp, segment.id)
        if self._me in named | warm and key not in model.holdings:
            model.holdings[key] = Holding(table.stamp, segment, self._me not in named)

    def _settle(self, deployment: str, model: _Model) -> Effects:
        effects = self._release(deployment, model)
        for key, holding in sorted(model.holdings.items()):
            effects += _judge(model, model.tables[key[0]], holding)
        # What one deployment lets go of may be the room that another waits for.
        models = sorted(self._models.items())
        effects += self._weigh()
        for name, other in models:
            effects += _drop(name, other)
        for name, other in models:
            effects += self._load_next(name, other)
        return effects

    def _release(self, deployment: str, model: _Model) -> Effects:
        """Lets go of tables that nobody uses, and of a model that nobody wants."""
        for stamp in [stamp for stamp in model.tables if not _in_use(model, stamp)]:
            del model.tables[stamp]
        gone = [key for key in model.holdings if key[0] not in model.tables]
        for key in gone:
            del model.holdings[key]
        effects: Effects = [ReportStatus()] if gone else []
        if model.spec is None and not model.holdings and model.opened is not None:
            effects += [*self._close(deployment, model), ReportStatus()]
        return effects

    def _close(self, deployment: str, model: _Model) -> Effects:
        """The engine goes; the watermark stays."""
        opened, model.opened = model.opened, None
        model.again_at, model.again_s = math.inf, 0.0
        self._hold_nothing(model)
        return [CloseModel(deployment)] if opened is not None else []

    def _hold_nothing(self, model: _Model) -> None:
        model.graph = model.refused = model.loading = None
        model.codec_errors = {}
        model.loaded.clear()
        model.warm_ms.clear()
        for holding in model.holdings.values():
            holding.state, holding.reason, holding.too_large = "waiting", None, False

    def _weigh(self) -> Effects:
        """Fails what does not fit beside what is to stay, and takes up what now does.

        What the newest documents ask for is let in by order, what has been begun before the rest,
        so that everything let in fits together once older tables are released. Stand-bys come
        last, begun or not.
        """
        effects: Effects = []
        room: dict[str, set[int]] = {name: set() for name in self._models}
        for standby, begun in ((False, True), (False, False), (True, True), (True, False)):
            for name, model in sorted(self._models.items()):
                for key, holding in sorted(model.holdings.items()):
                    wanted = holding.state in ("loading", "ready") if begun else holding.wanting
                    wanted = wanted and holding.standby == standby
                    if wanted and model.graph is not None and _is_current(model, key[0]):
                        effects += self._let_in(name, holding, room)
        return effects

    def _let_in(self, deployment: str, holding: Holding, room: dict[str, set[int]]) -> Effects:
        beside = room[deployment]
        room[deployment] = beside | set(range(*holding.segment.units))
        nbytes = self._bytes(room)
        too_large = nbytes > self._cap
        if too_large:
            room[deployment] = beside
        if too_large == holding.too_large:
            return []
        holding.too_large = too_large
        holding.state = "failed" if too_large else "waiting"
        holding.reason = _shortage(holding, nbytes, self._cap) if too_large else None
        return [ReportStatus()]

    def _load_next(self, deployment: str, model: _Model) -> Effects:
        """Loads one segment at a time, in the order of tables and segments; stand-bys last."""
        if model.graph is None or model.spec is None or model.loading is not None:
            return []
        there = {name: _present(other) for name, other in self._models.items()}
        by_turn = sorted(model.holdings.items(), key=lambda item: (item[1].standby, item[0]))
        for key, holding in by_turn:
            if holding.state not in ("waiting", "loading") or not _is_current(model, key[0]):
                continue
            units = set(range(*holding.segment.units))
            if self._bytes({**there, deployment: there[deployment] | units}) <= self._cap:
                holding.state, model.loading = "loading", holding.segment.units
                return [LoadUnits(deployment, model.loading), ReportStatus()]
        return []

    def _bytes(self, units: Mapping[str, set[int]]) -> int:
        """Bytes of weights by deployment, shared ones counted once, and of their caches."""
        return sum(
            model.graph.held_bytes(units[name]) + _cache_bytes(model)
            for name, model in self._models.items()
            if model.graph is not None and units[name]
        )


def _cache_bytes(model: _Model) -> int:
    """What is kept free for the sessions of a model that this node has a part of."""
    if model.spec is None or model.graph is None:
        return 0
    return cache_bytes(model.spec, model.graph)


def _present(model: _Model) -> set[int]:
    """Units that the engine has, or will have."""
    return model.loaded | set(range(*(model.loading or (0, 0))))


def _is_current(model: _Model, stamp: Stamp) -> bool:
    tables = model.document.tables() if model.document else ()
    return any(table.stamp == stamp for table in tables)


def _in_use(model: _Model, stamp: Stamp) -> bool:
    """Whether a table may still carry requests, or will."""
    if _is_current(model, stamp):
        return True
    serve = model.document.serve if model.document else None
    if serve is None or serve.door is None:
        return False
    given_up = stamp > serve.stamp  # it was prepared and never served
    return not given_up and stamp >= model.oldest_in_use


def _judge(model: _Model, table: Table, holding: Holding) -> Effects:
    """Ready, failed, or as before."""
    unfit = _unfit(model, table)
    before = holding.state
    if unfit is not None:
        holding.state, holding.reason, holding.too_large = "failed", unfit, False
    elif before in ("waiting", "loading") and _complete(model, holding):
        holding.state = "ready"
    return [ReportStatus()] if holding.state != before else []


def _drop(deployment: str, model: _Model) -> Effects:
    """Lets go of units that no holding needs."""
    held = [h for h in model.holdings.values() if h.state != "failed"]
    needed = {unit for holding in held for unit in range(*holding.segment.units)}
    # What is being loaded is dropped when it has come: the engine would do it in that order.
    unneeded = model.loaded - needed - set(range(*(model.loading or (0, 0))))
    model.loaded -= unneeded
    return [DropUnits(deployment, run) for run in runs(unneeded)]


def _unfit(model: _Model, table: Table) -> str | None:
    """Why no part of `table` can be held by the model that is open here, or None."""
    if model.refused is not None:
        return model.refused
    if model.graph is None or table.model is None or table.model.digest == model.graph.digest:
        return None
    return "the model here is not the one the table was made for"


def _complete(model: _Model, holding: Holding) -> bool:
    # Warm means measured: a segment whose units came with others still gets its first pass.
    units = holding.segment.units
    return units in model.warm_ms and model.loaded.issuperset(range(*units))


def _shortage(holding: Holding, wanted: int, cap: int) -> str:
    return (
        f"segment {holding.segment.id} would make {wanted / MIB:.1f} MiB of weights and caches "
        f"here, the cap is {cap / MIB:.1f} MiB"
    )
