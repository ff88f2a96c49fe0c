"""Ctrl-C before a command has begun: nothing is said, and the exit code tells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# A module whose import takes an interrupt for something else, as some do.
STUCK = """
import sys, time
print("importing", flush=True)
try:
    time.sleep(600)
except BaseException:
    sys.exit("interrupted in an import")
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("typer", ["status"]),  # of the program
        ("mimetypes", ["infer", "echo", "x"]),  # of one command
    ],
)
def test_an_interrupt_while_modules_are_imported_is_silent(
    tmp_path: Path, module: str, arguments: list[str]
) -> None:
    (tmp_path / f"{module}.py").write_text(STUCK)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-m", "dsi_mqtt.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (130, b"")
