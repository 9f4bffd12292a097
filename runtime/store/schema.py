"""Which revision a control database is at, and how it gets to this code's.

Alembic is imported only where something has to be done: a rollback must not wait for it.
"""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, inspect, text

from runtime.core.errors import RefusedError, TealError

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).with_name("migrations")
FIRST = "0001"
"""The revision of the tables as they were before revisions were recorded."""
VERSION_TABLE = "alembic_version"

_FILE = re.compile(r"(\d{4})_\w+\.py")


@cache
def head() -> str:
    """The revision of this code: the number of its last migration."""
    names = (path.name for path in (MIGRATIONS / "versions").iterdir())
    return max(match[1] for match in map(_FILE.fullmatch, names) if match)


def revision(connection: Connection) -> str | None:
    """The revision that the database is at, None if it records none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def is_current(connection: Connection) -> bool:
    """True if there is nothing to do. RefusedError if the database is newer than this code."""
    found = revision(connection)
    if found is not None and found > head():
        raise RefusedError(
            f"the control store is at revision {found}, but this teal knows revisions up to {head()}; "
            "use the newer teal that wrote it, or restore a backup from before"
        )
    return found == head()


def has_tables(connection: Connection) -> bool:
    return inspect(connection).has_table("endpoints")


def migrate(connection: Connection, target: str | None = None) -> None:
    """Bring the database to a revision, by default to this code's, within the open transaction."""
    if is_current(connection):
        return
    from alembic import command

    config = _alembic(connection)
    if revision(connection) is None and has_tables(connection):
        _check_adoptable(connection)
        command.stamp(config, FIRST)
    command.upgrade(config, target or head())


def _check_adoptable(connection: Connection) -> None:
    """TealError if tables that record no revision are not those of the first one."""
    inspector = inspect(connection)
    faults = []
    for name, columns in _first_columns().items():
        if not inspector.has_table(name):
            faults.append(f"table {name} is missing")
            continue
        found = {column["name"] for column in inspector.get_columns(name)}
        if found != columns:
            faults.append(f"table {name} has columns {sorted(found)} instead of {sorted(columns)}")
    if faults:
        raise TealError(
            f"the tables in this database are not teal's or were changed by hand: {'; '.join(faults)}; "
            "give teal a database of its own, or mend them"
        )


def _first_columns() -> dict[str, set[str]]:
    """Table to columns of revision 0001, from the migration itself run on an empty database in memory."""
    from alembic import command
    from sqlalchemy import create_engine

    metadata = MetaData()
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        command.upgrade(_alembic(connection), FIRST)
        metadata.reflect(connection)
    engine.dispose()
    tables = metadata.tables.items()
    return {name: {column.name for column in table.columns} for name, table in tables if name != VERSION_TABLE}


def _alembic(connection: Connection) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
