"""Running the parts of one session together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first_of(*parts: Coroutine[Any, Any, Any]) -> None:
    """Runs `parts` until the first ends, then cancels the others; raises what it raised.

    Not a TaskGroup, which raises only the loss of a connection when a cancellation comes in the
    same moment: whoever connects again would then never learn that it was asked to stop.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
