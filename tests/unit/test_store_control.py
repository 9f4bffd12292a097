"""The control store in SQLite: what every store promises."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from runtime.core.errors import ConfigError, UnreachableError, UsageError
from runtime.store import tables
from runtime.store.control import ControlStore
from tests.store_conformance import EndpointConformance, deploy_two, model, raw
from tests.store_conformance_backup import BackupConformance
from tests.store_conformance_commands import CommandConformance
from tests.store_conformance_control import ControlConformance
from tests.store_conformance_life import CrashConformance, MigrationConformance


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/control.db"


class TestEndpoints(EndpointConformance):
    pass


class TestControl(ControlConformance):
    pass


class TestMigrations(MigrationConformance):
    pass


class TestCrashes(CrashConformance):
    pass


class TestCommands(CommandConformance):
    max_examples = 25


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


def test_the_witness_beside_the_file_knows_of_rows_removed_at_the_end(store: ControlStore, url: str) -> None:
    store.set_share("flights", 500, actor="ann")
    with raw(url) as connection:
        connection.execute(text("DELETE FROM transitions WHERE sequence = 3"))
        connection.execute(text("UPDATE endpoints SET share = 0, generation = 2"))
    found = store.verify_audit()
    assert found.faults == ["row 3, which the witness knows, is gone: the chain ends at 2"]
    assert found.compared_with == ["the witness"]


def test_the_witness_knows_of_a_chain_that_was_written_anew(store: ControlStore, url: str, tmp_path: Path) -> None:
    forged = ControlStore(f"sqlite:///{tmp_path}/forged.db")
    forged.create_schema()
    for version in (1, 2):
        forged.record_model_version(model(version))
    deploy_two(forged)
    with raw(forged.url) as source, raw(url) as target:
        rows = source.execute(tables.transitions.select()).mappings().all()
        target.execute(tables.transitions.delete())
        target.execute(tables.transitions.insert(), [dict(row) for row in rows])
    forged.close()
    assert store.verify_audit().faults == ["row 2 is not the one that the witness knows: the chain was written anew"]


def test_a_witness_that_cannot_be_read_or_written_stops_nothing(store: ControlStore, tmp_path: Path) -> None:
    witness = store.witness_path
    assert witness is not None
    witness.write_text("{")
    assert store.verify_audit().compared_with == []
    assert store.read_witness() == store.head()
    witness.unlink()
    witness.mkdir()
    store.set_share("flights", 500, actor="ann")
    assert store.verify_audit().faults == []


def test_an_undone_row_is_never_noted(store: ControlStore) -> None:
    before = store.read_witness()

    def change_and_fail() -> None:
        with store.transaction():
            store.set_share("flights", 500, actor="ann")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    assert store.read_witness() == before == store.head()


def test_a_damaged_file_is_named_with_its_remedy(store: ControlStore, url: str, tmp_path: Path) -> None:
    store.close()
    (tmp_path / "control.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(UnreachableError, match=r"is damaged: .*; move it away and bring back a backup"):
        ControlStore(url).endpoints()


def test_looking_for_a_store_makes_no_file(url: str, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="run `teal up` first"):
        ControlStore(url).endpoints()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["no url", "mysql://a:secret@b/c"])
def test_a_url_of_something_else_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"paths\.control") as caught:
        ControlStore(url)
    assert "secret" not in str(caught.value)


def test_a_server_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"pip install 'teal-runtime\[postgres\]'"):
        ControlStore("postgresql://a:b@localhost/c")


def test_a_rollback_does_not_wait_for_the_migration_tool(store: ControlStore, url: str) -> None:
    code = (
        "import sys; from runtime.store.control import ControlStore; ControlStore(sys.argv[1]).generations(); "
        "print([name for name in sys.modules if name.split('.')[0] in ('alembic', 'mako', 'psycopg')])"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
