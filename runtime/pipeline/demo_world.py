"""The world that the demo plays: flights that have not happened yet for the model, in a table of their own."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from runtime.data.contract import feature_names, time_name
from runtime.data.delta import read_table
from runtime.pipeline.steps import Session

TABLE = "flights_as_they_come"
WORLD_WINDOW = (f"data.name={TABLE}", "data.since=2013-05-01", "data.until=2013-08-01")
MONTHS = {
    "May": ("2013-05-01", "2013-06-01"),
    "June": ("2013-06-01", "2013-07-01"),
    "July": ("2013-07-01", "2013-08-01"),
}
SEED = 20130101


@dataclass(frozen=True, slots=True)
class World:
    session: Session

    def month(self, name: str) -> pa.Table:
        """A month's flights, with their labels."""
        since, until = MONTHS[name]
        version = self.session.store.data_version(TABLE)
        time_column = time_name(self.session.config.data.columns)
        return read_table(version.uri, version.version, since=since, until=until, time_column=time_column)

    def rows(self, table: pa.Table) -> list[dict[str, Any]]:
        """What a client knows of them: the features."""
        rows: list[dict[str, Any]] = table.select(list(feature_names(self.session.config.data.columns))).to_pylist()
        return rows

    def sample(self, month: str, num_rows: int = 2000) -> list[dict[str, Any]]:
        """Rows of a month in random order, for the constant load."""
        table = self.month(month)
        chosen = np.random.default_rng(SEED).choice(table.num_rows, size=num_rows, replace=False)
        return self.rows(table.take(pa.array(chosen)))
