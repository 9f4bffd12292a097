"""The monitor's memory in PostgreSQL: the same promises, kept by a real server."""

from collections.abc import Iterator

import pytest

from runtime.config.monitoring import MonitoringConfig
from runtime.core.errors import UnreachableError
from runtime.monitoring.monitor import Monitor
from runtime.store.control import ControlStore
from tests.monitor_conformance import MonitorConformance
from tests.monitor_store import ingest
from tests.monitor_traffic import PROFILE, message
from tests.postgres import PostgresServer, find_postgres, postgres_server

pytestmark = pytest.mark.skipif(find_postgres() is None, reason="no PostgreSQL server is installed on this machine")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.create_database()


class TestMonitor(MonitorConformance):
    pass


def test_a_server_that_is_killed_and_started_again_costs_no_delta() -> None:
    with postgres_server() as server:
        store = ControlStore(server.create_database())
        store.create_schema()
        monitor = Monitor(store, MonitoringConfig(), lambda _: PROFILE)
        ingest(monitor, message(1))
        server.stop()
        try:
            for _ in range(2):
                with pytest.raises(UnreachableError):
                    ingest(monitor, message(2))
            with pytest.raises(UnreachableError):
                monitor.tick()
        finally:
            server.start()
        assert ingest(monitor, message(2)) is False  # sent again, and it had waited
        monitor.tick()
        (entry,) = Monitor(store, MonitoringConfig(), lambda _: PROFILE).status()["entries"]
        assert entry["rows"] == 200
        store.close()
