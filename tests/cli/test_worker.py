"""What `worker` says at its start where its machine lacks something."""

from __future__ import annotations

import logging

import pytest

from dsi_mqtt.cli import worker
from dsi_mqtt.engine import select


def test_packages_that_lack_are_named_with_what_installs_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def found(name: str) -> object:
        return None if name in {"torch", "safetensors"} else object()

    monkeypatch.setattr(select, "find_spec", found)
    worker.warn_of_missing()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "torch, safetensors: not installed, so every model but a fake one is refused here; "
        "pip install '.[node]' in the checkout"
    )


def test_where_nothing_lacks_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    worker.warn_of_missing()
    assert caplog.records == []
