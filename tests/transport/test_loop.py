from __future__ import annotations

import asyncio
import sys

import pytest
import uvloop

from dsi_mqtt.transport.loop import run


async def which() -> type[asyncio.AbstractEventLoop]:
    return type(asyncio.get_running_loop())


def test_processes_run_on_uvloop() -> None:
    assert issubclass(run(which()), uvloop.Loop)


def test_without_uvloop_they_run_on_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert issubclass(run(which()), asyncio.BaseEventLoop)
