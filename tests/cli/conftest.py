"""The program, run within the test's process."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from dsi_mqtt.cli.program import program
from tests.cli.running import Ended, Run


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dsi-mqtt", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            program()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def nowhere() -> Iterator[str]:
    """An address at which nothing answers: bound, so that nobody else takes it, and not heard."""
    with closing(socket.socket()) as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield f"mqtt://127.0.0.1:{unheard.getsockname()[1]}"
