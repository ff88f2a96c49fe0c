"""A simulated node's engines: models looked at, weights loaded, segments computed, caches kept.

All of it takes time on the node's clock, which stands still while the node does, and ends in an
event for its machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.sim.caches import Caches, Portion
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.engine import Graphs, Processor, leaving, step_leaving, tokens_drawn


@dataclass(slots=True)
class _Engine:
    """One opening of a model. What was asked of it is void when it is closed."""

    graph: ModelGraph
    caches: Caches = field(default_factory=Caches)


@dataclass(frozen=True, slots=True)
class _Work:
    """stood_s: for how long the node had stood still when it began."""

    due: float
    stood_s: float
    engine: _Engine
    event: ev.Event


class Engines:
    """Those of one node, through all its lives. emit: to its machine.

    positions_copied: of a unit each, that it has taken in.
    """

    def __init__(
        self,
        clock: Clock,
        processor: Processor,
        graphs: Graphs,
        open_s: float,
        emit: Callable[[ev.Event], None],
    ) -> None:
        self.processor = processor
        self._clock = clock
        self._graphs = graphs
        self._open_s = open_s
        self._emit = emit
        self._engines: dict[str, _Engine] = {}
        self.positions_copied = 0
        self._frozen = False
        self._stood_s = 0.0
        self._halted: list[_Work] = []

    def begin(self) -> None:
        """Another life of the node."""
        self.processor.free_at = self._clock.now
        self._engines.clear()
        self._halted.clear()
        self._frozen = False

    def freeze(self) -> None:
        self._frozen = True

    def thaw(self, stood_s: float) -> None:
        """What would have ended meanwhile ends now, or later by as long as it stood still."""
        self._frozen = False
        self._stood_s += stood_s
        self.processor.free_at += stood_s
        halted, self._halted = self._halted, []
        for work in halted:
            self._finished(work)

    def sessions(self, deployment: str) -> int:
        """Of how many the engine keeps anything."""
        engine = self._engines.get(deployment)
        return len(engine.caches) if engine is not None else 0

    def graph(self, deployment: str) -> ModelGraph | None:
        """Of the model that is open under this name."""
        engine = self._engines.get(deployment)
        return engine.graph if engine is not None else None

    # --- effects ------------------------------------------------------------------------------

    def open(self, deployment: Deployment) -> None:
        name = deployment.name
        graph = self._graphs.of(deployment)
        self._engines[name] = _Engine(graph)
        opened = ev.ModelOpened(name, graph)
        self._finish(self._clock.now + self._open_s, name, opened)

    def close(self, deployment: str) -> None:
        self._engines.pop(deployment, None)

    def load(self, effect: fx.LoadUnits, *, at_once: bool = False) -> None:
        name, graph = effect.deployment, self._engines[effect.deployment].graph
        warm_s = self.processor.cost_s(graph, effect.units)
        loaded = ev.UnitsLoaded(name, effect.units, warm_s * 1e3)
        takes_s = self.processor.load_s(graph, effect.units) + warm_s
        self._finish(self._clock.now + (0.0 if at_once else takes_s), name, loaded)

    def drop(self, effect: fx.DropUnits) -> None:
        engine = self._engines.get(effect.deployment)
        if engine is not None:
            engine.caches.drop(effect.units)

    def close_sessions(self, effect: fx.CloseSessions) -> None:
        engine = self._engines.get(effect.deployment)
        if engine is not None:
            for session in effect.sessions:
                engine.caches.close(session)

    def export_state(self, job: fx.ExportState) -> None:
        engine = self._engines.get(job.deployment)
        if engine is None:
            return  # the machine that closed it answers
        exported: ev.Event = ev.StateStale(job.job)
        if engine.caches.has(job.session, job.units) >= job.last:
            portion = Portion(job.units, job.first, job.last)
            exported = ev.StateExported(job.job, portion.written(engine.graph))
        self._finish_in_turn(job.deployment, exported)

    def import_state(self, job: fx.ImportState) -> None:
        engine = self._engines.get(job.deployment)
        if engine is None:
            return
        portion = Portion(job.units, job.first, job.last)
        imported: ev.Event = ev.StateImported(job.job)
        if portion.written(engine.graph) != job.blob:
            imported = ev.StateStale(job.job)
        elif engine.caches.put(job.session, portion):
            self.positions_copied += len(portion)
        else:
            imported = ev.StateStale(job.job, engine.caches.has(job.session, portion.units))
        self._finish_in_turn(job.deployment, imported)

    def compute(self, job: fx.Compute) -> None:
        """In its turn. Turns come in the order of asking, so caches are looked at here and now."""
        graph = self._engines[job.deployment].graph
        if graph.vocabulary is not None:
            self._step(job, graph, graph.vocabulary.size)
            return
        _, over, spent = self.processor.computes(graph, job.units, self._clock.now)
        computed = ev.Computed(job.job, leaving(graph, job.units.stop), spent)
        self._finish(over, job.deployment, computed)

    def _step(self, job: fx.Compute, graph: ModelGraph, vocabulary: int) -> None:
        caches, units = self._engines[job.deployment].caches, job.units
        lacking = caches.lacking(job.rows, units)
        if lacking:
            self._finish_in_turn(job.deployment, ev.ComputeStale(job.job, lacking))
            return
        caches.grow(job.rows, units)
        positions = sum(row.tokens for row in job.rows)
        _, over, spent = self.processor.computes(graph, units, self._clock.now, positions)
        if units.stop == len(graph.units):
            made = tokens_drawn(vocabulary, job.rows, job.sampling)
        else:
            made = step_leaving(graph, units.stop, len(job.rows), job.rows[0].tokens)
        self._finish(over, job.deployment, ev.Computed(job.job, made, spent))

    # --- time ---------------------------------------------------------------------------------

    def _finish_in_turn(self, deployment: str, event: ev.Event) -> None:
        self._finish(max(self._clock.now, self.processor.free_at), deployment, event)

    def _finish(self, due: float, deployment: str, event: ev.Event) -> None:
        """`event` at `due`, and later by as long as the node stands still until then."""
        work = _Work(due, self._stood_s, self._engines[deployment], event)
        self._clock.at(due, self._finished, work)

    def _finished(self, work: _Work) -> None:
        if all(engine is not work.engine for engine in self._engines.values()):
            return  # of another life, or closed meanwhile
        if self._frozen:
            self._halted.append(work)
            return
        due = work.due + (self._stood_s - work.stood_s)
        if due > self._clock.now:
            self._clock.at(due, self._finished, work)
        else:
            self._emit(work.event)
