"""The demo's data: hazards a city's operations centre knows, and reports to match to them.

`hazards.json` lists the hazards. `reports.jsonl` holds one report a line, in the order in which
the demo sends them. All of it was written for this project; places and events are invented. Most
reports name the matter in everyday words, two or three per hazard only hint at it. How many a
model matches says something about this data, which was revised after a first try with MiniLM; it
is no benchmark of the model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Hazard:
    """One known hazard.

    signs: how it is typically reported.
    action: what the operations centre should do about it.
    """

    id: str
    title: str
    description: str
    signs: tuple[str, ...]
    action: str

    @property
    def passages(self) -> tuple[str, ...]:
        """The texts whose mean embedding stands for this hazard."""
        return (f"{self.title}. {self.description}", *self.signs)


@dataclass(frozen=True, slots=True)
class Report:
    """One incident report.

    source: who or what sent it.
    hazard: the id of the hazard that a reader would name.
    """

    id: str
    text: str
    source: str
    hazard: str


def load_hazards() -> tuple[Hazard, ...]:
    """The known hazards, in a fixed order."""
    return tuple(_hazard(fields) for fields in json.loads(_read("hazards.json")))


def load_reports() -> tuple[Report, ...]:
    """The reports, in the order in which the demo sends them."""
    return tuple(Report(**json.loads(line)) for line in _read("reports.jsonl").splitlines())


def _hazard(fields: dict[str, Any]) -> Hazard:
    return Hazard(**fields | {"signs": tuple(fields["signs"])})


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
