"""What every control store promises over its life: migrations, and writers that die."""

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

import runtime.store
from runtime.core.errors import RefusedError, TealError, UnreachableError
from runtime.store import schema, tables
from runtime.store.control import ControlStore
from tests.store_conformance import StoreTests, all_at_once, deploy_two, raw


class MigrationConformance(StoreTests):
    def test_a_database_without_tables_says_what_to_run(self, url: str) -> None:
        with pytest.raises(UnreachableError, match="run `teal up` first"):
            ControlStore(url).endpoints()
        with pytest.raises(UnreachableError, match="run `teal up` first"):
            ControlStore(url).record_step("k", "n", {})

    def test_the_migrations_make_the_tables_that_the_code_uses(self, store: ControlStore, url: str) -> None:
        for module in pkgutil.iter_modules(runtime.store.__path__, "runtime.store."):
            importlib.import_module(module.name)
        with raw(url) as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, tables.metadata) == []

    def test_tables_from_before_revisions_were_recorded_are_adopted_with_their_rows(self, url: str) -> None:
        with raw(url) as connection:
            schema.migrate(connection, schema.FIRST)
            connection.execute(text(f"DROP TABLE {schema.VERSION_TABLE}"))
            connection.execute(text("INSERT INTO aliases VALUES ('flights', 'champion', 1)"))
        store = ControlStore(url)
        assert store.generations() == {}
        assert store.replicas() == []
        with raw(url) as connection:
            assert schema.revision(connection) == schema.head()
            assert connection.execute(text("SELECT version FROM aliases")).scalar() == 1
        store.close()

    def test_tables_that_are_not_teals_are_left_alone(self, url: str) -> None:
        with raw(url) as connection:
            schema.migrate(connection, schema.FIRST)
            connection.execute(text(f"DROP TABLE {schema.VERSION_TABLE}"))
            connection.execute(text("ALTER TABLE aliases RENAME COLUMN version TO number"))
        with pytest.raises(TealError, match=r"table aliases has columns .*'number'\] instead of"):
            ControlStore(url).endpoints()
        with raw(url) as connection:
            assert schema.revision(connection) is None

    def test_a_store_newer_than_the_code_is_refused(self, store: ControlStore, url: str) -> None:
        with raw(url) as connection:
            connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
        for use in (ControlStore(url).endpoints, ControlStore(url).create_schema):
            with pytest.raises(RefusedError, match=r"at revision 9999, but this teal knows revisions up to 0\d+; use"):
                use()

    def test_of_many_who_open_an_older_store_at_once_one_migrates_it(self, url: str) -> None:
        with raw(url) as connection:
            schema.migrate(connection, schema.FIRST)
        stores = [ControlStore(url) for _ in range(6)]
        assert all_at_once([store.generations for store in stores]) == [{}] * 6
        for store in stores:
            store.close()


KILLED_WRITERS = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from runtime.store.control import ControlStore
from tests.store_conformance import model

url = sys.argv[1]

def approve(store):
    (asked,) = store.approvals(state="pending")
    store.idempotent("key", {}, lambda: {"state": store.approve(asked.id, by="bob").state})

COMMANDS = {
    "assign": lambda store: store.assign_slot("flights", None, model(3), actor="ann"),
    "shift": lambda store: store.set_share("flights", 10_000, actor="ann"),
    "promote": lambda store: store.promote("flights", actor="ann"),
    "approve": approve,
    "lease": lambda store: store.acquire_lease("controller", "a", 10, now=100),
    "restore": lambda store: store.restore(Path(sys.argv[2]), actor="ann", force=True),
}

def read():
    store = ControlStore(url)
    messages = [message.payload["sequence"] for message in store.pending("hook", now=1e12)]
    approvals = [found.state for found in store.approvals()]
    state = (store.endpoint("flights"), store.transitions(), approvals, messages, store.lease("controller"))
    assert store.verify_audit().faults == []
    store.close()
    return state

def die_at(store, number):
    count = 0
    def step(*_):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
    for moment in ("before_cursor_execute", "after_cursor_execute"):
        event.listen(store._engine, moment, step)
    event.listen(store._engine, "commit", step)

def die_after_commit(store):
    store._after_commit = lambda _: os.kill(os.getpid(), signal.SIGKILL)

def run_in_child(command, arrange):
    child = os.fork()
    if child == 0:
        store = ControlStore(url)
        store.generations()
        arrange(store)
        command(store)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status

for name, command in COMMANDS.items():
    before, points = read(), 0
    # A restore has hundreds of points of the same few kinds.
    stride = 97 if name == "restore" else 1
    for number in range(1, 10_000, stride):
        if run_in_child(command, lambda store: die_at(store, number)) == 0:
            break
        points += 1
        assert read() == before, (name, number)
    after = read()
    assert after != before, name
    print(name, points)
    if name in ("assign", "shift"):
        assert run_in_child(command, die_after_commit) == signal.SIGKILL
        assert read()[0].generation == after[0].generation + 1, f"{name} was lost after its commit"
"""


class CrashConformance(StoreTests):
    def test_a_writer_killed_at_any_statement_leaves_the_old_state_or_the_new(
        self, store: ControlStore, url: str, tmp_path: Path
    ) -> None:
        """Killed before and after every statement of every command, and before and after the commit."""
        deploy_two(store)
        store.subscribe("hook", ["transition"])
        store.backup(tmp_path / "b.jsonl")
        store.request_approval("deploy", "flights:3", author="ann", endpoint="flights")
        store.close()
        arguments = [sys.executable, "-c", KILLED_WRITERS, url, str(tmp_path / "b.jsonl")]
        environment = os.environ | {"TMPDIR": str(tmp_path)}  # a killed restore leaves its staging there
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        points = {name: int(count) for name, count in map(str.split, done.stdout.splitlines())}
        assert list(points) == ["assign", "shift", "promote", "approve", "lease", "restore"]
        assert points.pop("restore") > 1
        assert min(points.values()) > 6
