"""What the tests compare engines with."""

from __future__ import annotations

from typing import Any


def in_memory_of_its_own(model: Any) -> Any:
    """The same with every weight copied out of the mapped file.

    There weights lie at any multiple of eight bytes, and on some processors the last bits of a
    product depend on how its factors are aligned. An engine's weights are aligned.
    """
    for weight in (*model.parameters(), *model.buffers()):
        weight.data = weight.data.clone()
    return model
