"""One site for all tests that leave it as they found it; those that break one have their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.live import LiveSite, deployment, live_site


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def calm_site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveSite]:
    """Serves `hazards`, a fake model in three segments. Its tests run on the session's loop."""
    async with live_site(tmp_path_factory.mktemp("calm")) as live:
        table = await live.deploy(deployment("hazards"))
        assert len(table.segments) == 3
        yield live
