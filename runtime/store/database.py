"""A connection to the control database: reads, and writes in one transaction each. Knows no table's meaning."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError

from runtime.core.errors import ConflictError, UnreachableError
from runtime.store import tables

BUSY_TIMEOUT_S = 10


class Database:
    """Safe to open in many processes at once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _create_engine(url)

    def create_schema(self) -> None:
        """Make the tables that are missing. Idempotent."""
        with self._write() as connection:
            tables.metadata.create_all(connection)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                yield connection
        except OperationalError as error:
            raise self._unreachable(error) from error

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise self._unreachable(error) from error
        except IntegrityError as error:
            raise ConflictError(f"somebody else changed the same row of the control store: {error.orig}") from error

    def _unreachable(self, error: OperationalError) -> UnreachableError:
        shown = make_url(self.url).render_as_string(hide_password=True)
        return UnreachableError(f"control store {shown} does not answer: {error.orig}; run `teal up` first")


def _create_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin on its own: see begin()
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that reads before it writes fails at once where another has written since.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def upsert(connection: Connection, table: Any, key: dict[str, Any], values: dict[str, Any]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**key, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))
