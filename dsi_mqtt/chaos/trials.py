"""Which faults there are, on whom, for how long each is tried, and in which order: pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from dsi_mqtt.errors import ConfigError

Kind = Literal["one-pass", "generation"]
# On which site it is tried (`layouts`): where spares take over, where they hold their parts warm
# already, or where each node has an equal.
SiteName = Literal["spares", "warm", "equals"]
# Who is hit: the node of the door, of the first segment (mostly the same), of a later one, any of
# three places, or what the name of the fault says.
Target = Literal["door", "first", "middle", "last", "any", "broker", "orchestrator", "all"]
# After which a fault counts as recovered from: a table without its victim, one on which the victim
# computes nothing (what a door alone sends and receives is little), or its own end.
Proof = Literal["table", "chain", "end"]

KINDS: Final[tuple[Kind, ...]] = ("one-pass", "generation")
PLACES: Final[tuple[Target, ...]] = ("door", "middle", "last")
COMPUTING: Final[tuple[Target, ...]] = ("first", "middle", "last")

# What makes a row whole.
INJECTIONS: Final = 20
INPUTS: Final = 1000
GENERATIONS: Final = 50
FULL_S: Final = 4200.0
MIXED: Final = "mixed"
MIXED_S: Final = 600.0
# No orchestrator for so long: in a row of its own, and among other faults.
ABSENT_S: Final = 600.0
ABSENT_SHORT_S: Final = 8.0


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure of a row, in its unit, and what it should stay within.

    figure: recovery_p95_s, table_p95_s or pause_max_ms. kinds: whose rows it is an aim of.
    """

    figure: Literal["recovery_p95_s", "table_p95_s", "pause_max_ms"]
    at_most: float
    kinds: tuple[Kind, ...] = KINDS


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault on one target: a row for each kind.

    cost_s: about what one injection takes, with all that comes back after it. client: who asks.
    lanes: generations at once. rate_per_s: of inputs. hold_s: between two injections at least, so
    that what the one began has come to rest before the next, where nothing else takes that long.
    enough: injections that make a row whole.
    """

    fault: str
    target: Target
    proof: Proof
    cost_s: float
    aims: tuple[Aim, ...] = ()
    client: Literal["dsi", "plain"] = "dsi"
    lanes: int = 4
    hold_s: float = 0.5
    rate_per_s: float = 10.0
    site: SiteName = "spares"
    enough: int = INJECTIONS

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ("one-pass",) if self.client == "plain" else KINDS


_KILLED: Final = (Aim("recovery_p95_s", 2.0),)
_SILENT: Final = (Aim("recovery_p95_s", 4.0),)
_SLOWER: Final = (Aim("table_p95_s", 5.0, ("one-pass",)),)
_MOVED: Final = (
    Aim("pause_max_ms", 100.0, ("one-pass",)),
    Aim("pause_max_ms", 1000.0, ("generation",)),
)

TRIALS: Final[tuple[Trial, ...]] = (
    Trial("worker_kill", "door", "table", 8, _KILLED),
    Trial("worker_kill", "middle", "table", 7, _KILLED),
    Trial("worker_kill", "last", "table", 7, _KILLED),
    Trial("worker_freeze", "any", "table", 12, _SILENT),
    Trial("link_cut", "any", "table", 12, _SILENT),
    Trial("link_half_open", "any", "table", 20, _SILENT),
    Trial("link_throttle", "any", "table", 14, _SILENT),
    Trial("control_broker_restart", "broker", "end", 4),
    Trial("control_broker_kill", "broker", "end", 4),
    Trial("data_broker_restart", "broker", "end", 4),
    Trial("data_broker_kill", "broker", "end", 4),
    Trial("orchestrator_kill", "orchestrator", "end", 5),
    # Ten minutes of the seventy, once, while nothing else befalls anybody.
    Trial("orchestrator_absent", "orchestrator", "end", 46, enough=1),
    Trial("door_kill", "door", "table", 8, _KILLED),
    Trial("two_doors", "door", "table", 20, _SILENT),
    Trial("two_orchestrators", "orchestrator", "end", 14),
    Trial("clock_skew", "all", "end", 6),
    Trial("message_disorder", "all", "end", 5),
    Trial("disk_full", "broker", "end", 7),
    Trial("memory_short", "any", "end", 6),
    Trial("poison", "any", "end", 16),
    Trial("planned_move", "middle", "table", 8, _MOVED, lanes=8, hold_s=2.5, rate_per_s=20),
    Trial("control_broker_kill", "broker", "end", 4, client="plain"),
    Trial("worker_kill", "any", "table", 7, _KILLED, site="warm"),
    Trial("door_kill", "door", "table", 8, _KILLED, site="warm"),
    Trial("worker_freeze", "any", "table", 10, _SILENT, site="warm"),
    Trial("link_degrade", "any", "chain", 10, _SLOWER, site="equals"),
    Trial("cannot_load", "middle", "table", 10, site="equals"),
)


def chosen(name: str | None) -> tuple[Trial, ...]:
    """The trials of one fault; None: all. Raises ConfigError for one that there is not."""
    found = tuple(trial for trial in TRIALS if name in (None, trial.fault))
    if not found:
        known = ", ".join(dict.fromkeys(trial.fault for trial in TRIALS))
        raise ConfigError(
            f"--fault: there is no {name!r:.40}; docs/chaos.md lists {MIXED}, {known}"
        )
    return found


def budgets(trials: Sequence[Trial], seconds: float) -> list[float]:
    """Seconds of each: all together as many as given, each by what its injections cost."""
    whole = sum(trial.cost_s for trial in trials)
    return [seconds * trial.cost_s / whole for trial in trials]


def absent_s(budget_s: float, around_s: float) -> float:
    """For how long no orchestrator is there in a row of so many seconds, of which `around_s` go
    into what is before and behind.
    """
    return min(max(budget_s - around_s, ABSENT_SHORT_S), ABSENT_S)


def is_whole(injections: int, inputs: int, kind: Kind, enough: int = INJECTIONS) -> bool:
    """Whether a row has as much in it as a row should."""
    asked = INPUTS if kind == "one-pass" else GENERATIONS
    return injections >= enough and inputs >= asked


def victims(trial: Trial, seed: int) -> Iterator[Target]:
    """On which place each injection falls, without end."""
    random = Random(f"{seed}/{trial.fault}/{trial.target}")  # noqa: S311 - it must be repeatable
    places = COMPUTING if trial.proof == "chain" else PLACES
    while True:
        yield random.choice(places) if trial.target == "any" else trial.target


def mixture(seed: int) -> Iterator[tuple[Trial, Target]]:
    """Faults at random, without end: all once before any comes again."""
    random = Random(f"{seed}/{MIXED}")  # noqa: S311 - it must be repeatable
    lots = [trial for trial in TRIALS if trial.client == "dsi" and trial.site == "spares"]
    while True:
        for trial in random.sample(lots, len(lots)):
            yield trial, random.choice(PLACES) if trial.target == "any" else trial.target
