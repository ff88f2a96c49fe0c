"""The options of a fake model, read from a deployment file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from dsi_mqtt.core.model import UNITS_MAX
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.errors import ConfigError

# Whoever reads a deployment describes its model at once, so what it takes memory for is bounded.
HIDDEN_MAX: Final = 2**20
FIGURE_MAX: Final = 1e9
_COSTS: Final = ("unit_ms", "step_ms", "weight_mib", "load_ms")
_FIGURES: Final = (*_COSTS, "crossing_kib", "input_kib", "result_kib")


@dataclass(frozen=True, slots=True)
class FakeOptions:
    """`model.options` of a fake model.

    units: all of them, prelude and head included; at least 2.
    unit_ms: what a unit costs for one row; one number for all, or one per unit.
    step_ms: what a unit costs a step of a generation at least, however few positions it has, as
    reading its weights does; one number for all, or one per unit.
    weight_mib: what a unit weighs; one number for all, or one per unit.
    hidden: features of the activation, 4 bytes each; for generation also the token ids.
    values: features of a result, the first ones; 0 gives all.
    ends: token ids that end a text.
    load_ms: what loading one unit costs.
    allocate: really holds the weights in memory.
    refuse: the reason `verify` gives for refusing a split; empty accepts.
    missing: units whose weights cannot be loaded.
    seed: another seed is another model.
    crossing_kib, input_kib, result_kib: what leaves each unit (one number, or one per unit), comes
    in and goes out, for one row; for simulations only. Where they are not given, activations are
    of `hidden` features.
    """

    units: int = 6
    unit_ms: float | tuple[float, ...] = 0.0
    step_ms: float | tuple[float, ...] = 0.0
    weight_mib: float | tuple[float, ...] = 1.0
    hidden: int = 16
    values: int = 0
    ends: tuple[int, ...] = ()
    load_ms: float = 0.0
    allocate: bool = False
    refuse: str = ""
    missing: tuple[int, ...] = ()
    seed: int = 0
    crossing_kib: float | tuple[float, ...] = 0.0
    input_kib: float = 0.0
    result_kib: float = 0.0

    def __post_init__(self) -> None:
        if not 2 <= self.units <= UNITS_MAX or not 1 <= self.hidden <= HIDDEN_MAX:  # noqa: PLR2004
            raise ConfigError(
                f"model.options: units must be 2 (a prelude and a head) to {UNITS_MAX}, and hidden "
                f"1 to {HIDDEN_MAX:,}"
            )
        if self.seed < 0:
            raise ConfigError("model.options.seed must be 0 or more")
        if not 0 <= self.values <= self.hidden:
            raise ConfigError("model.options.values must be 0, or at most as many as hidden")
        for name in _FIGURES:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.units:
                raise ConfigError(
                    f"model.options.{name} has {len(value)} values for {self.units} units; "
                    "give one number, or one per unit"
                )
            figures = value if isinstance(value, tuple) else (value,)
            if not all(0 <= figure <= FIGURE_MAX for figure in figures):  # nor what is no number
                raise ConfigError(f"model.options.{name} must be from 0 to {FIGURE_MAX:,.0f}")

    @property
    def simulated(self) -> bool:
        """Whether it says of its messages what the engine does not send."""
        return bool(self.crossing_kib or self.input_kib or self.result_kib)

    def crossing_bytes(self, unit: int) -> int:
        told = of_unit(self.crossing_kib, unit)
        return int(told * KIB) if told else self.hidden * 4

    def cost_s(self, unit: int, positions: int = 1) -> float:
        """positions: of all rows of a step."""
        return max(positions * of_unit(self.unit_ms, unit), of_unit(self.step_ms, unit)) / 1000

    def weight_bytes(self, unit: int) -> int:
        return int(of_unit(self.weight_mib, unit) * MIB)


def read_options(options: Mapping[str, Any] | None) -> FakeOptions:
    """The options of a deployment file. Raises ConfigError naming the option that is wrong."""
    given = dict(options or {})
    unknown = given.keys() - {known.name for known in fields(FakeOptions)}
    if unknown:
        raise ConfigError(
            f"model.options has unknown {', '.join(sorted(unknown))}; a fake model knows "
            f"{', '.join(known.name for known in fields(FakeOptions))}"
        )
    defaults = FakeOptions()
    for name, value in given.items():
        given[name] = _checked(name, value, getattr(defaults, name))
    return FakeOptions(**given)


def _checked(name: str, value: object, default: object) -> object:
    listed = name in ("unit_ms", "step_ms", "weight_mib", "crossing_kib", "missing", "ends")
    if listed and isinstance(value, list | tuple):
        if all(is_number(item) for item in value):
            return tuple(value)
    elif isinstance(default, bool | str):
        if isinstance(value, type(default)):
            return value
    elif (
        name not in ("missing", "ends")
        and is_number(value)
        and isinstance(value, int | type(default))
    ):
        return value
    kind = "a list" if name in ("missing", "ends") else type(default).__name__
    raise ConfigError(f"model.options.{name} is {value!r}; give {kind}")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def of_unit(value: float | tuple[float, ...], unit: int) -> float:
    return value[unit] if isinstance(value, tuple) else value
