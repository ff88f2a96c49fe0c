"""Names for what torch and transformers pass around without a type of its own."""

from __future__ import annotations

from typing import Any, TypeAlias

# Nested tuples, lists, dicts and model outputs, with tensors among the leaves.
Tree: TypeAlias = Any
# One overload of an operation, as dispatch receives it.
Operation: TypeAlias = Any
