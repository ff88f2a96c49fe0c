"""Measures what each unit of a model takes, one after the other: no machine needs room for all.

What one unit sends on is what the next one is measured with, so that shapes and numbers are real.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Final

import numpy as np

from dsi_mqtt.core.activation import JSON, TOKENS, Row, Tensor, Tensors, pack_body
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.profiled import UnitTimes
from dsi_mqtt.engine.base import Engine

WARM_UPS: Final = 2
PASSES: Final = 7
# Clocks are no finer; a time of 0 would be a unit that costs nothing.
LEAST_S: Final = 1e-7

Clock = Callable[[], float]
Said = Callable[[int], None]


def profile_batches(
    engine: Engine, batches: Sequence[int], row: str, clock: Clock, say: Said
) -> tuple[UnitTimes, ...]:
    """Of a model that answers in one pass. row: one row of an input, as JSON.

    Raises InvalidInputError where the model does not read such an input.
    """
    flowing: dict[int, Tensors] = {
        count: pack_body(JSON, f"[{','.join([row] * count)}]".encode()) for count in batches
    }

    def passes(units: UnitRange) -> dict[str, float]:
        times = {}
        for count in batches:
            run = partial(engine.forward, units, (Row(),), flowing[count])
            flowing[count], times[str(count)] = _timed(run, clock)
        return times

    return _each(engine, say, lambda units: {"batch_ms": passes(units)})


def profile_generation(
    engine: Engine, sessions: Sequence[int], tokens: Sequence[int], clock: Clock, say: Said
) -> tuple[UnitTimes, ...]:
    """Of a model that generates: prompts by their tokens, and one step by its sessions, of which
    each has as many positions as the shortest prompt.
    """
    known = min(tokens)
    prompts = {count: _tokens(1, count) for count in tokens}
    fed, steps = _tokens(1, known), {count: _tokens(count, 1) for count in sessions}

    def prefills(units: UnitRange) -> dict[str, float]:
        times = {}
        for count in tokens:
            run = partial(_step, engine, units, (Row("prompt", 0, count),), prompts[count])
            prompts[count], times[str(count)] = _timed(run, clock)
        engine.close("prompt")
        return times

    def decodes(units: UnitRange) -> dict[str, float]:
        nonlocal fed
        times, names = {}, [f"s{i}" for i in range(max(sessions))]
        before = fed
        for name in names:
            fed = _step(engine, units, (Row(name, 0, known),), before)
        for count in sessions:
            rows = tuple(Row(name, known, 1) for name in names[:count])
            run = partial(_step, engine, units, rows, steps[count])
            steps[count], times[str(count)] = _timed(run, clock)
        for name in names:
            engine.close(name)
        return times

    def both(units: UnitRange) -> dict[str, dict[str, float]]:
        return {"prefill_ms": prefills(units), "decode_ms": decodes(units)}

    return _each(engine, say, both)


def _each(
    engine: Engine, say: Said, measure: Callable[[UnitRange], dict[str, dict[str, float]]]
) -> tuple[UnitTimes, ...]:
    found = []
    for i, unit in enumerate(engine.graph.units):
        say(i)
        units = UnitRange(i, i + 1)
        engine.load(units)
        try:
            times = measure(units)
        finally:
            engine.drop(units)
        found.append(
            UnitTimes(unit.name, unit.weight_bytes, unit.output_bytes, unit.state_bytes, **times)
        )
    return tuple(found)


def _timed(run: Callable[[], Tensors], clock: Clock) -> tuple[Tensors, float]:
    """What it gives, and the median of its ms once it is warm."""
    for _ in range(WARM_UPS):
        run()
    seconds = []
    for _ in range(PASSES):
        began = clock()
        result = run()
        seconds.append(clock() - began)
    return result, max(LEAST_S, median(seconds)) * 1000


def _step(engine: Engine, units: UnitRange, rows: tuple[Row, ...], given: Tensors) -> Tensors:
    """The head draws for steps as doors have it draw: the likeliest token."""
    head = units.stop == len(engine.graph.units)
    sampling = (Sampling(temperature=0.0),) * len(rows) if head else ()
    return engine.forward(units, rows, given, sampling=sampling)


def _tokens(rows: int, count: int) -> Tensors:
    ids = np.ones((rows, count), "<i8")
    return (Tensor(TOKENS, "int64", ids.shape, ids.tobytes()),)
