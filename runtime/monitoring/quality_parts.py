"""The ledger's rows in parts, each a stretch of time with a bounded number of rows: what an update makes of them."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.config.alerting import QualityConfig
from runtime.data.parquet import write_parquet
from runtime.monitoring.quality_join import LABEL_SCHEMA, add_predictions, join_labels, made_ms

PART_ROWS = 50_000
"""A part of more than twice as many is split into parts of this."""


class PartsUpdate:
    """The parts that one update changes: read, joined, written under new names. One of them at a time is in memory."""

    def __init__(self, directory: Path, parts: Mapping[str, str], *, generation: int, config: QualityConfig) -> None:
        """`parts`: when each begins, in milliseconds since 1970, to its file's name."""
        self._directory, self._generation, self._config = directory, generation, config
        self._names = {int(start): name for start, name in parts.items()}
        self.fresh: list[pa.Table] = []
        self.num_predictions = self.num_repeated_predictions = 0
        self.num_fresh = self.num_repeated = self.num_conflicting = self.num_late = 0
        self._grown: set[int] = set()
        """Parts that got predictions."""
        self._held: tuple[int, pa.Table] | None = None
        """A part that is to be written."""

    @property
    def parts(self) -> dict[str, str]:
        """As they were given, and as they are after `join`."""
        return {str(start): name for start, name in sorted(self._names.items())}

    def add(self, logged: pa.Table) -> None:
        """Take in predictions."""
        for start, chosen in self._by_part(logged, "at"):
            rows, num_repeated = add_predictions(self._rows(start), chosen)
            self.num_predictions += chosen.num_rows - num_repeated
            self.num_repeated_predictions += num_repeated
            self._grown.add(start)
            self._hold(start, rows)

    def join(self, labels: pa.Table, waiting: pa.Table) -> pa.Table:
        """Labels to their predictions. Returns those whose prediction is not there."""
        left: list[pa.Table] = [LABEL_SCHEMA.empty_table()]
        tried: list[pa.Table] = []
        for start, chosen in self._by_part(waiting, "received_at"):
            # They were looked up before; only a part that got predictions since can have their rows.
            (tried if start in self._grown else left).append(chosen)
        # The newest first: it is at hand, and nearly always the only one.
        for start, chosen in reversed(self._by_part(pa.concat_tables([labels, *tried]), "received_at")):
            left.append(self._join_part(start, chosen))
        self._write_held()
        return pa.concat_tables(left)

    def _join_part(self, start: int, labels: pa.Table) -> pa.Table:
        rows = self._rows(start)
        if rows is None:
            return labels
        joined = join_labels(rows, labels, self._config.conflicts, self._config.late_after_s)
        self.fresh.append(joined.fresh)
        self.num_fresh += joined.fresh.num_rows
        self.num_repeated += joined.num_repeated
        self.num_conflicting += joined.num_conflicting
        self.num_late += joined.num_late
        self._hold(start, joined.rows)
        return joined.unknown

    def _by_part(self, table: pa.Table, otherwise: str) -> list[tuple[int, pa.Table]]:
        """The table's rows by the part that their prediction belongs to."""
        made = made_ms(table["prediction_id"], table[otherwise])
        starts = np.array(sorted(self._names) or [0], dtype=np.int64)
        places = np.maximum(np.searchsorted(starts, made, side="right") - 1, 0)
        return [(int(starts[at]), table.filter(pa.array(places == at))) for at in np.unique(places).tolist()]

    def _rows(self, start: int) -> pa.Table | None:
        if self._held is not None and self._held[0] == start:
            return self._held[1]
        self._write_held()
        name = self._names.get(start)
        return None if name is None else pq.read_table(self._directory / name, partitioning=None)

    def _hold(self, start: int, rows: pa.Table) -> None:
        self._held = (start, rows)
        if rows.num_rows > 2 * PART_ROWS:
            self._write_held()

    def _write_held(self) -> None:
        if self._held is None:
            return
        (first, held), self._held = self._held, None
        for start, rows in _split(first, held):
            self._names[start] = f"{start}.{self._generation}.parquet"
            write_parquet(self._directory / self._names[start], rows)
            if first in self._grown:
                self._grown.add(start)


def _split(start: int, rows: pa.Table) -> list[tuple[int, pa.Table]]:
    """A part in pieces of PART_ROWS to twice that, each with its beginning; rows of one millisecond stay together."""
    if rows.num_rows <= 2 * PART_ROWS:
        return [(start, rows)]
    made = made_ms(rows["prediction_id"], rows["at"])
    order = np.argsort(made, kind="stable")
    rows, made = rows.take(pa.array(order)), made[order]
    begins = np.unique(made[PART_ROWS : made.size - PART_ROWS + 1 : PART_ROWS])
    begins = begins[begins > max(made[0], start)]
    cuts = [0, *np.searchsorted(made, begins).tolist(), made.size]
    pieces = [rows.slice(at, end - at) for at, end in pairwise(cuts)]
    return list(zip([start, *begins.tolist()], pieces, strict=True))
