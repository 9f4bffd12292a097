"""The control store in PostgreSQL: the same promises, kept by a real server."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from runtime.core.errors import UnreachableError
from runtime.store.control import ControlStore
from runtime.store.database import WRITERS_LOCK
from runtime.store.records import EndpointState
from tests.postgres import PASSWORD, PostgresServer, find_postgres, postgres_server
from tests.store_conformance import EndpointConformance, deploy_two, model, raw
from tests.store_conformance_backup import BackupConformance
from tests.store_conformance_commands import CommandConformance
from tests.store_conformance_control import ControlConformance
from tests.store_conformance_life import CrashConformance, MigrationConformance
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(find_postgres() is None, reason="no PostgreSQL server is installed on this machine")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.create_database()


class TestEndpoints(EndpointConformance):
    pass


class TestControl(ControlConformance):
    pass


class TestMigrations(MigrationConformance):
    pass


class TestCrashes(CrashConformance):
    pass


class TestCommands(CommandConformance):
    max_examples = 8


class TestBackups(BackupConformance):
    pass


@pytest.fixture
def store(url: str) -> Iterator[ControlStore]:
    store = ControlStore(url)
    store.create_schema()
    for version in (1, 2, 3):
        store.record_model_version(model(version))
    deploy_two(store)
    yield store
    store.close()


def test_a_server_that_is_away_is_named_without_its_password_and_found_again() -> None:
    with postgres_server() as server:
        store = ControlStore(server.create_database())
        store.create_schema()
        server.stop()
        try:
            for use in (store.endpoints, partial(store.record_step, "k", "n", {}), ControlStore(store.url).endpoints):
                with pytest.raises(UnreachableError, match=r"postgresql\+psycopg://teal:\*\*\*@127.0.0.1") as caught:
                    use()
                assert PASSWORD not in str(caught.value)
        finally:
            server.start()
        store.record_step("k", "n", {"done": 1})
        assert store.step_outputs("k") == {"done": 1}
        store.close()


def test_a_wrong_password_is_not_repeated(server: PostgresServer) -> None:
    with pytest.raises(UnreachableError, match="password authentication failed") as caught:
        ControlStore(server.url("postgres").replace(PASSWORD, "guessed-wrongly")).endpoints()
    assert "guessed-wrongly" not in str(caught.value)


def test_a_deadlock_with_somebody_elses_transaction_is_survived(store: ControlStore, url: str) -> None:
    """Another session holds the endpoint's row and then wants the writers' lock, which the store's writer has."""
    done: list[EndpointState] = []
    writer = threading.Thread(target=lambda: done.append(store.set_share("flights", 500, actor="ann")))
    with raw(url) as other:
        other.execute(text("UPDATE endpoints SET share = share"))
        writer.start()

        def is_waiting() -> bool:
            with raw(url) as third:
                query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
                return bool(third.execute(text(query)).scalar())

        wait_until(is_waiting, timeout_s=20)
        other.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITERS_LOCK})
    writer.join(30)
    assert [state.share for state in done] == [500]
    assert (store.endpoint("flights").generation, store.verify_audit().faults) == (3, [])


def test_a_server_keeps_its_witness_where_it_is_told(store: ControlStore, url: str, tmp_path: Path) -> None:
    witnessed = ControlStore(url, witness=tmp_path / "head.json")
    witnessed.set_share("flights", 500, actor="ann")
    with raw(url) as connection:
        connection.execute(text("DELETE FROM transitions WHERE sequence = 3"))
        connection.execute(text("UPDATE endpoints SET share = 0, generation = 2"))
    assert store.verify_audit().faults == []
    assert witnessed.verify_audit().faults == ["row 3, which the witness knows, is gone: the chain ends at 2"]
    witnessed.close()
