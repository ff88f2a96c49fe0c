"""Who may import whom: docs/structure.md as a test, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dsi_mqtt"
HEAVY = {"torch", "transformers", "safetensors", "PIL"}

# Lower rooms first; rooms of one floor never import each other.
FLOORS = (
    {"errors"},
    {"core"},
    {"wire", "transport", "engine"},
    {"worker", "orchestrator", "client", "gateway", "dashboard"},
    {"sim"},
    {"evaluate", "shaping"},
    {"chaos"},
    {"cli"},
)
# What the pure core may use of the standard library: nothing that waits, measures time, draws
# lots, or talks to the outside.
PURE = {
    "__future__",
    "array",
    "bisect",
    "collections",
    "copy",
    "dataclasses",
    "enum",
    "fnmatch",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "math",
    "numpy",
    "operator",
    "statistics",
    "types",
    "typing",
}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text("utf-8"), str(path))))


def at_start(node: ast.AST) -> Iterator[ast.AST]:
    """What loading a module runs of `node`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        parts: list[ast.AST] = [child]
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            parts = [*child.orelse]
        for part in parts:
            yield from at_start(part)


def imports(path: Path, *, started: bool = False) -> Iterator[str]:
    """Dotted names that a file imports. started: only those that loading it runs."""
    nodes = nodes_of(path)
    for node in at_start(nodes[0]) if started else nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide which room is entered"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)


def room(module: str) -> str:
    """The room of "dsi_mqtt.room.…"; of the package itself, ""."""
    return [*module.split("."), ""][1]


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


ROOMS = {room(module) for module in MODULES} - {""}


def test_every_room_is_on_the_map() -> None:
    assert set().union(*FLOORS) >= ROOMS


@pytest.mark.parametrize("module", [module for module in MODULES if room(module)])
def test_a_room_imports_only_what_lies_below_it(module: str) -> None:
    own = room(module)
    for name in imports(MODULES[module]):
        other = room(name) if name.split(".")[0] == "dsi_mqtt" else ""
        if name == "dsi_mqtt":
            assert own == "cli", f"{module} imports the package's front"
        elif other and other != own:
            assert floor(other) < floor(own), f"{module} imports {name}"


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == "core"])
def test_the_core_is_pure(module: str) -> None:
    foreign = {name.split(".")[0] for name in imports(MODULES[module])} - {"dsi_mqtt"}
    assert foreign <= PURE
    waiting = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
    assert not [node for node in nodes_of(MODULES[module]) if isinstance(node, waiting)]


def test_only_its_own_room_imports_torch() -> None:
    users = {
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] in HEAVY for name in imports(path))
    }
    allowed = {module for module in MODULES if module.startswith("dsi_mqtt.engine.torch")}
    # Independent answers to compare the chain with, and no part of what serves.
    assert users - allowed <= {"dsi_mqtt.cli.demo_reference", "dsi_mqtt.cli.bench_decode_plain"}


def test_only_plots_draw_and_only_when_they_do() -> None:
    users = {m for m, path in MODULES.items() if "matplotlib" in path.read_text("utf-8")}
    assert users == {"dsi_mqtt.evaluate.plots"}
    started = imports(MODULES["dsi_mqtt.evaluate.plots"], started=True)
    assert not [name for name in started if name.startswith("matplotlib")]


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        module: {name for name in imports(path, started=True) if name in MODULES} - {module}
        for module, path in MODULES.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize(
    "statement",
    [
        "import dsi_mqtt",
        "from dsi_mqtt import Client",
        "import dsi_mqtt.worker.app, dsi_mqtt.orchestrator.app",
        "import dsi_mqtt.engine.select",
        "from dsi_mqtt.cli.program import COMMANDS, command; list(map(command, COMMANDS))",
    ],
)
def test_no_torch_is_loaded_before_a_model_needs_it(statement: str) -> None:
    script = f"{statement}\nimport sys\nprint(*(sys.modules.keys() & {HEAVY!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_benchmarks_are_loaded_by_their_own_command_alone() -> None:
    script = "import dsi_mqtt.cli.program, sys; print(*(n for n in sys.modules if '.bench_' in n))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
