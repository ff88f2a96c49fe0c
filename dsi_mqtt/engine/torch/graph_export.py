"""A module as a graph of operations, by `torch.export` over tensors that hold nothing.

The graph takes any number of rows, and other sizes where the module can be exported so: first all
dimensions are tried, then rows alone. What must hold of the sizes (the *guards*) comes along, for
the graph is the module's only there. Operations stay those that the module calls, so that results
are its own to the last bit. Nothing of it is stored or sent: every node exports for itself, and
the text of the graph, in the model's digest, says whether two nodes have the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import ShapeEnv, free_unbacked_symbols
from torch.utils import _pytree as pytree

from dsi_mqtt.engine.torch.build import building, stored_buffers
from dsi_mqtt.engine.torch.graph_recurrent import recurrent_as_one
from dsi_mqtt.engine.torch.graph_shapes import Shapes, read_shapes
from dsi_mqtt.engine.torch.graph_writes import without_writes
from dsi_mqtt.errors import InvalidInputError, SplitError

# One row would be taken for a constant; a rare number equals no other dimension by chance.
_ROWS: Final = 7
# What decides whether a random operation draws, by the names in operations' schemas.
_SWITCHES: Final = ("train", "training")
_CHANCES: Final = ("p", "dropout_p", "dropout")
_WORDS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Kind:
    """A tensor that an operation makes. sizes: None where they follow from the inputs'."""

    dtype: torch.dtype
    sizes: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """A module's graph: placeholders, operations that write to nothing, and the output.

    Nodes say in `meta["made"]` what they make: a Kind, int for a number, list for several tensors;
    and in `meta["module"]` which module's code they come from.
    weights: by placeholder, the parameter or stored buffer that it stands for.
    constants: by placeholder, tensors that no state dict holds.
    inputs: by name, their placeholders.
    output: how what the graph returns lies in what the module returns.
    """

    graph: fx.Graph
    weights: Mapping[str, str]
    constants: Mapping[str, torch.Tensor]
    inputs: Mapping[str, str]
    shapes: Shapes
    output: pytree.TreeSpec

    def text(self) -> str:
        """Everything that must be the same on two nodes, but for the weights."""
        told = [str(node.format_node()) for node in self.graph.nodes]
        told += [f"{name}={weight}" for name, weight in self.weights.items()]
        for name, constant in self.constants.items():
            values = constant.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest = hashlib.sha256(values.tobytes()).hexdigest()
            told.append(f"{name}={constant.dtype},{tuple(constant.shape)},{digest}")
        return "\n".join((*told, str(self.shapes), str(self.output)))


def export_graph(module: nn.Module, sample: Mapping[str, torch.Tensor], *, fixed: bool) -> Exported:
    """Exports `module`, whose parameters and stored buffers may be on meta; they are left alone.

    sample: one row of each input, by the parameters of `forward`.
    fixed: whether all dimensions but the rows are as in the sample.
    Raises SplitError with the reason when it cannot be exported so that it takes any rows.
    """
    reasons = []
    for sizes in (Dim.STATIC,) if fixed else (Dim.AUTO, Dim.STATIC):
        try:
            exported = _exported(_export(module, sample, sizes))
            # Conditions that the sample does not meet, or that cannot be read, are found here.
            exported.shapes.check({name: tuple(value.shape) for name, value in sample.items()})
        except (SplitError, InvalidInputError) as error:
            reasons.append(str(error))
        except Exception as error:  # noqa: BLE001 - a user's code, traced, with errors of all kinds
            reasons.append(_told(error))
        else:
            return exported
    raise SplitError(reasons[-1])


def put_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Sets parameters and buffers as assignments would, for some modules keep lists of theirs."""
    for name, value in tensors.items():
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, value)


def _export(
    module: nn.Module,
    sample: Mapping[str, torch.Tensor],
    sizes: Any,  # noqa: ANN401 - torch keeps the type of AUTO and STATIC to itself
) -> ExportedProgram:
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with contextlib.ExitStack() as contexts:
        for context in (
            building,
            warnings.catch_warnings(),
            torch.no_grad(),
            _without_values(module, mode),
            recurrent_as_one(),
        ):
            contexts.enter_context(context)
        warnings.simplefilter("ignore")
        with mode:
            inputs = {
                name: torch.empty((_ROWS, *value.shape[1:]), dtype=value.dtype)
                for name, value in sample.items()
            }
        dynamic = {
            name: [Dim.AUTO, *(sizes if size > 1 else Dim.STATIC for size in value.shape[1:])]
            for name, value in sample.items()
        }
        program = torch.export.export(module, (), inputs, dynamic_shapes=dynamic, strict=False)
        return without_writes(program)


@contextlib.contextmanager
def _without_values(module: nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """The module's parameters and stored buffers as tensors of that mode."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    before: dict[str, torch.Tensor] = parameters | stored_buffers(module)
    made: dict[int, torch.Tensor] = {}
    with mode:
        for name, tensor in before.items():
            if id(tensor) not in made:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                if name in parameters:
                    empty = nn.Parameter(empty, requires_grad=False)
                made[id(tensor)] = empty
    try:
        put_tensors(module, {name: made[id(tensor)] for name, tensor in before.items()})
        yield
    finally:
        put_tensors(module, before)


def _exported(program: ExportedProgram) -> Exported:
    """Reads the program. Raises SplitError for what cannot be computed piece by piece."""
    weights, constants, inputs = {}, {}, []
    for spec in program.graph_signature.input_specs:
        name = spec.arg.name
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(name)
        elif spec.target in program.constants:
            constants[name] = _constant(str(spec.target), program)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            weights[name] = str(spec.target)
        else:
            raise SplitError(f"the model computes with {spec.target}, which is no tensor")
    assert program.call_spec.in_spec is not None  # noqa: S101 - export always fills it in
    names = program.call_spec.in_spec.child(1).context
    by_name = dict(zip(names, inputs, strict=True))
    shapes = read_shapes(program, by_name)
    graph = program.graph
    for node in graph.nodes:
        _check(node)
    _keep_results(program, shapes)
    for node in graph.nodes:
        modules = list(node.meta.get("nn_module_stack", {"": ("",)}).values())
        # The tracer's own tensors would keep all it knew of sizes in memory.
        node.meta = {"made": _made(node.meta.get("val")), "module": modules[-1][0]}
    used = {node.name for node in graph.nodes}
    assert program.call_spec.out_spec is not None  # noqa: S101
    return Exported(
        graph,
        {name: weight for name, weight in weights.items() if name in used},
        {name: constant for name, constant in constants.items() if name in used},
        by_name,
        shapes,
        program.call_spec.out_spec,
    )


def _made(value: object) -> Kind | type:
    if isinstance(value, torch.Tensor):
        sizes: tuple[int | torch.SymInt, ...] = tuple(value.shape)
        return Kind(value.dtype, tuple(size if type(size) is int else None for size in sizes))
    return list if isinstance(value, list | tuple) else int


def _constant(name: str, program: ExportedProgram) -> torch.Tensor:
    value = program.constants[name]
    if not isinstance(value, torch.Tensor):
        raise SplitError(f"the model computes with {name}, which is no tensor")
    if value.is_meta:
        raise SplitError(
            f"{name} is computed from weights when the model is built; register it as a "
            "buffer that the state dict holds, or compute it in forward"
        )
    return value


def _check(node: fx.Node) -> None:
    if node.op == "get_attr" or isinstance(node.target, torch._ops.HigherOrderOperator):  # noqa: SLF001 - its only name
        raise SplitError(f"the model computes with {node.target}, which cannot be cut")
    if _is_random(node):
        raise SplitError(f"the model draws random numbers ({node.target})")
    if free_unbacked_symbols(node.meta.get("val")):
        raise SplitError(f"sizes within the model depend on values ({node.target})")


def _is_random(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):  # noqa: SLF001
        return False
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    arguments = target._schema.arguments  # noqa: SLF001 - no public way
    given = {item.name: item.default_value for item in arguments}
    given |= dict(zip(given, node.args, strict=False)) | node.kwargs
    if any(given.get(name) is False for name in _SWITCHES):
        return False
    chances = [given[name] for name in _CHANCES if name in given]
    return not chances or any(chance != 0 for chance in chances)


def _keep_results(program: ExportedProgram, shapes: Shapes) -> None:
    """Leaves of the outputs what the module returns, and of the graph what makes it."""
    graph = program.graph
    output = graph.output_node()
    kept = []
    for spec, made in zip(program.graph_signature.output_specs, output.args[0], strict=True):
        if spec.kind is not OutputKind.USER_OUTPUT:
            continue
        kept.append(made)
        value = made.meta["val"] if isinstance(made, fx.Node) else None
        rows = str(value.shape[0]) if isinstance(value, torch.Tensor) and value.dim() else ""
        if isinstance(value, torch.Tensor) and rows not in shapes.rows:
            raise SplitError(f"output {len(kept)} of the model has not one part for each row")
    output.args = (tuple(kept),)
    # What makes nothing are the tracer's checks; they hold where the guards do.
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    asked = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    }
    for node in graph.find_nodes(op="placeholder"):
        if not node.users and node.name not in asked:
            graph.erase_node(node)


def _told(error: Exception) -> str:
    """What went wrong, and in which line of the model's code."""
    words = str(error).strip().partition("\n")[0]
    if "data-dependent" in words:
        words = "what it does depends on values of tensors"
    elif "on device meta" in words:
        words = "it uses what was computed from weights when it was built; make that a buffer"
    elif len(words) > _WORDS_MAX:
        words = f"{words[:_WORDS_MAX]}…"
    torch_code = Path(torch.__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and torch_code not in file.parents and file != Path(__file__):
            return f"{words} ({file.name}, line {frame.lineno})"
    return words
