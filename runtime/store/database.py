"""A connection to the control database: reads of one moment, and writes in one transaction each.

Knows no table's meaning. Writers stand in line on both databases (`BEGIN IMMEDIATE`, an advisory lock), so what a
transaction has read is still true when it writes.
"""

import functools
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from runtime.core.errors import ConfigError, ConflictError, UnreachableError, UsageError
from runtime.store import schema

BUSY_TIMEOUT_S = 10
NUM_ATTEMPTS = 6
FIRST_PAUSE_S = 0.01
WRITERS_LOCK = 0x7EA1
"""Key of the advisory lock that PostgreSQL's writers take."""
VICTIM_STATES = {"40001", "40P01"}
"""SQLSTATE of a serialisation failure and of a deadlock: the database undid the transaction, and it may be repeated."""

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Database")


class VictimError(ConflictError):
    """The database undid the whole transaction in favour of another; it may be repeated as it is."""


class _Rehearsed(Exception):
    """Ends the transaction of a rehearsal."""


def retried(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Repeat a method that makes one transaction when the database undid it in favour of another."""

    @functools.wraps(method)
    def call(self: S, /, *arguments: P.args, **named: P.kwargs) -> T:
        for attempt in range(1, NUM_ATTEMPTS):
            try:
                return method(self, *arguments, **named)
            except VictimError:
                if self.is_in_transaction:
                    raise
                time.sleep(random.uniform(0, FIRST_PAUSE_S * 2**attempt))
        return method(self, *arguments, **named)

    return call


class Database:
    """Safe to open in many processes at once. The first use brings an older schema up to date.

    A change that ends in UnreachableError may have been made, if the database was lost at the commit: repeated with its
    expected generation or its idempotency key it is not made twice.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._url = _parse_url(url)
        self._engine = _create_engine(self._url)
        self._local = threading.local()
        self._opening = threading.Lock()
        self._is_open = False

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def sqlite_path(self) -> Path | None:
        """The file of an embedded store, None for a server's."""
        is_file = self._url.get_backend_name() == "sqlite" and self._url.database
        return Path(str(self._url.database)) if is_file else None

    def create_schema(self) -> None:
        """Make the tables that are missing and bring older ones up to date. Idempotent."""
        path = self.sqlite_path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._open(may_create=True)

    def close(self) -> None:
        self._engine.dispose()

    @property
    def is_in_transaction(self) -> bool:
        return getattr(self._local, "connection", None) is not None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything that this thread does through this object within the block one transaction: all or nothing.

        A change that fails inside and whose error is caught is undone alone. What is read inside is what was written.
        """
        with self._write():
            yield

    def rehearse(self, action: Callable[[], T]) -> T:
        """What `action` gives, with every error that it raises, in a transaction that is undone."""
        gave: list[T] = []
        with suppress(_Rehearsed), self.transaction():
            gave.append(action())
            raise _Rehearsed
        return gave[0]

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """All reads of the block see one moment."""
        if self.is_in_transaction:
            yield self._local.connection
            return
        self._open()
        with self._named_errors(), self._engine.connect() as connection:
            options: dict[str, Any] = {"reads_only": True}
            if connection.dialect.name == "postgresql":
                options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            with connection.execution_options(**options).begin():
                yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        if self.is_in_transaction:
            connection: Connection = self._local.connection
            with self._named_errors(), connection.begin_nested():
                yield connection
            return
        self._open()
        with self._named_errors(), self._engine.begin() as connection:
            _stand_in_line(connection)
            self._local.connection = connection
            try:
                yield connection
                noted = self._before_commit(connection)
            finally:
                self._local.connection = None
        self._after_commit(noted)

    def _before_commit(self, connection: Connection) -> Any:
        """What `_after_commit` shall know, read in the transaction that is about to be committed."""

    def _after_commit(self, noted: Any) -> None:
        """Called once a transaction stands."""

    def _open(self, *, may_create: bool = False) -> None:
        """Once for each store: is the schema this code's? An older one is migrated, whoever is first."""
        if self._is_open:
            return
        with self._opening, self._named_errors():
            path = self.sqlite_path
            if path is not None and not path.exists() and not may_create:
                raise UnreachableError(f"there is no control store {self.shown_url}; run `teal up` first")
            with self._engine.connect().execution_options(reads_only=True) as connection, connection.begin():
                is_current = schema.is_current(connection)
            if not is_current:
                with self._engine.begin() as connection:
                    _stand_in_line(connection)
                    if not (may_create or schema.has_tables(connection)):
                        raise UnreachableError(f"control store {self.shown_url} has no tables; run `teal up` first")
                    schema.migrate(connection)
            self._is_open = True

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise ConflictError(f"somebody else changed the same row of the control store: {error.orig}") from error
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) in VICTIM_STATES:
                raise VictimError(f"control store {self.shown_url} is contended: {error.orig}; repeat it") from error
            if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
                raise UnreachableError(
                    f"control store {self.shown_url} does not answer: {error.orig}; "
                    "start the database, or run `teal up` where there is no platform yet"
                ) from error
            if type(error) is DatabaseError and self.sqlite_path is not None:
                raise UnreachableError(
                    f"control store {self.shown_url} is damaged: {error.orig}; "
                    "move it away and bring back a backup with `teal restore FILE`"
                ) from error
            raise


def _stand_in_line(connection: Connection) -> None:
    """SQLite's writers wait at BEGIN IMMEDIATE; PostgreSQL's wait here."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITERS_LOCK})


def _parse_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "paths.control is not a database URL; it looks like sqlite:////path/control.db or "
            "postgresql://user:password@host/database"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(f"paths.control must be a sqlite or a postgresql URL, but got {parsed.drivername!r}")
    return parsed


def _create_engine(url: URL) -> Engine:
    return _create_postgres(url) if url.get_backend_name() == "postgresql" else _create_sqlite(url)


def _create_postgres(url: URL) -> Engine:
    limits = dict(connect_timeout=5, keepalives_idle=5, keepalives_interval=2, keepalives_count=3)
    try:
        # A host that is gone without a word is noticed within the same time as a store that is busy.
        engine = create_engine(
            url, pool_pre_ping=True, connect_args={**limits, "tcp_user_timeout": BUSY_TIMEOUT_S * 1000, **url.query}
        )
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a control store in PostgreSQL needs {error.name}; install it with `pip install 'teal-runtime[postgres]'`"
        ) from error

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: ConnectionPoolEntry) -> None:
        connection.execute(f"SET lock_timeout = '{BUSY_TIMEOUT_S}s'")
        connection.execute(f"SET idle_in_transaction_session_timeout = '{3 * BUSY_TIMEOUT_S}s'")
        connection.commit()

    return engine


def _create_sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver must not begin on its own: see begin()
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that reads before it writes fails at once where another has written since.
        reads_only = connection.get_execution_options().get("reads_only")
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


def upsert(connection: Connection, table: Any, key: dict[str, Any], values: dict[str, Any]) -> None:
    statement = _insert(connection, table).values(**key, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))


def upsert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Whole rows by the table's primary key, all in one statement."""
    if not rows:
        return
    statement = _insert(connection, table)
    key = {column.name for column in table.primary_key}
    values = {name: statement.excluded[name] for name in rows[0] if name not in key}
    connection.execute(statement.on_conflict_do_update(index_elements=sorted(key), set_=values), list(rows))


def _insert(connection: Connection, table: Any) -> Any:
    dialect: Any = sqlite
    if connection.dialect.name == "postgresql":
        # Here, as asyncio comes with it: a twentieth of what a command takes to start.
        from sqlalchemy.dialects import postgresql

        dialect = postgresql
    return dialect.insert(table)
