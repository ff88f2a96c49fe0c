"""A graph in which no operation writes to a tensor, so that a value is the same wherever it goes.

Modules write in place (`ReLU(inplace=True)`, `x += y`). Where nobody reads what was there before,
the operation that makes a new tensor takes the place of the one that writes; it computes the same
bits. For other writes (into slices) the tracer's own rewriting is asked, which takes longer than
the export itself.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.errors import SplitError

_WRITES: Final = "_"
_OUTPUTS: Final = (OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION)


def without_writes(program: ExportedProgram) -> ExportedProgram:
    """The program, rewritten where it writes. Raises SplitError when it writes to its weights."""
    kept = _kept(program)
    for node in [node for node in program.graph.nodes if _is_write(node)]:
        held = kept.get(_storages(node.args[0]).pop())
        if held is not None:
            raise SplitError(_keeps(held))
        _replace(node)
    if any(_is_write(node) or node.op == "get_attr" for node in program.graph.nodes):
        program.graph_module.recompile()
        program = program.run_decompositions({})
    for spec in program.graph_signature.output_specs:
        if spec.kind not in _OUTPUTS:
            raise SplitError(_keeps(str(spec.target)))
    return program


def _keeps(name: str) -> str:
    return f"the model writes to its own {name}: it keeps something from one request to the next"


def _kept(program: ExportedProgram) -> dict[StorageWeakRef, str]:
    """The memory of weights, buffers and constants."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return {
        storage: str(spec.target)
        for spec in program.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT
        for storage in _storages(nodes[spec.arg.name])
    }


def _is_write(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _storages(node: Tree) -> set[StorageWeakRef]:
    return {
        StorageWeakRef(leaf.untyped_storage())  # type: ignore[no-untyped-call]
        for leaf in pytree.tree_leaves(node.meta.get("val"))
        if isinstance(leaf, torch.Tensor)
    }


def _replace(node: fx.Node) -> None:
    """Lets `node` make a new tensor, if nobody looks at the old one afterwards."""
    target, written = node.target, node.args[0]
    assert isinstance(target, torch._ops.OpOverload)  # noqa: S101, SLF001 - it has a schema
    assert isinstance(written, fx.Node)  # noqa: S101 - operations write to their first argument
    name = target._schema.name.removeprefix("aten::")  # noqa: SLF001 - no public way
    packet = getattr(torch.ops.aten, name.removesuffix(_WRITES), None)
    makes = getattr(packet, target._overloadname, None)  # noqa: SLF001
    if not name.endswith(_WRITES) or makes is None or not _is_last_look(node, written):
        return
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda item: item.meta["val"])
    made, before = makes(*args, **kwargs), written.meta["val"]
    if (made.dtype, made.shape, made.stride()) == (before.dtype, before.shape, before.stride()):
        node.target = makes
        written.replace_all_uses_with(node, delete_user_cb=lambda user: user > node)


def _is_last_look(node: fx.Node, written: fx.Node) -> bool:
    """Whether no other view of what `node` writes to is used behind it."""
    memory = _storages(written)
    return not any(
        user > node
        for other in node.graph.nodes
        if other not in (node, written) and other < node and memory & _storages(other)
        for user in other.users
    )
