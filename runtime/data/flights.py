"""Departures from New York in 2013 with the weather of their hour: will the flight arrive over 15 minutes late?

Everything is known when the flight is due to leave; the delay of the departure is not among it. Weather is the one
observed in the scheduled hour, so a forecast must stand in for it in real use. Hours are New York's local ones, kept
in a UTC column as they are: a window from one month's first day to the next's is then a calendar month.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from runtime.config.schema import DataConfig
from runtime.core.errors import ConfigError

if TYPE_CHECKING:
    from ray.data import Dataset

LATE_MINUTES = 15
ORIGINS = pa.array(["EWR", "JFK", "LGA"])
WEEKDAYS = pa.array(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")

_HOUR = pa.timestamp("s", tz="UTC")
_FLIGHT_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(("year", "month", "day", "sched_dep_time", "sched_arr_time", "flight", "distance"), pa.int64()),
    **dict.fromkeys(("hour", "minute"), pa.int64()),
    **dict.fromkeys(("carrier", "origin", "dest"), pa.string()),
    "arr_delay": pa.float64(),
    "time_hour": _HOUR,
}
_WEATHER_TYPES: dict[str, pa.DataType] = {
    "origin": pa.string(),
    "time_hour": _HOUR,
    **dict.fromkeys(WEATHER, pa.float64()),
}


def build(config: DataConfig, sources: dict[str, Path]) -> "Dataset":
    """Every scheduled flight, `late` null for those that never arrived. Sources: `flights` and `weather`, CSV."""
    import ray

    for name in ("flights", "weather"):
        if name not in sources:
            raise ConfigError(f"data.sources must name {name!r} but has {sorted(sources)}")
    weather = pa.concat_tables(
        [ray.get(block) for block in _read(sources["weather"], _WEATHER_TYPES).to_arrow_refs()]
    ).combine_chunks()
    return _read(sources["flights"], _FLIGHT_TYPES).map_batches(
        partial(flight_rows, weather=weather), batch_size=None, batch_format="pyarrow", zero_copy_batch=True
    )


def _read(path: Path, types: dict[str, pa.DataType]) -> "Dataset":
    import ray.data

    options = pacsv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=["NA"], strings_can_be_null=True
    )
    # One block: the file is read by one task whatever its number, and each more worker costs seconds to start.
    return ray.data.read_csv(str(path), convert_options=options, override_num_blocks=1)


def flight_rows(flights: pa.Table, weather: pa.Table) -> pa.Table:
    """One row a scheduled flight, with the contract's columns, in the order of `flights`."""
    day = _joined("-", flights["year"], _padded(flights["month"], 2), _padded(flights["day"], 2))
    flight = _joined("", flights["carrier"], flights["flight"])
    time = _padded(flights["sched_dep_time"], 4)
    midnight = pc.strptime(day, format="%Y-%m-%d", unit="us").cast(pa.int64())
    minutes = pc.add(pc.multiply(flights["hour"], 60), flights["minute"])
    scheduled = pc.add(midnight, pc.multiply(minutes, 60_000_000)).cast(pa.timestamp("us", tz="UTC"))
    columns: dict[str, Any] = {
        "flight_id": _joined("_", day, flights["origin"], flight, time),
        "day": day,
        "scheduled_at": scheduled,
        "carrier": flights["carrier"],
        "origin": flights["origin"],
        "dest": flights["dest"],
        "hour": flights["hour"],
        "minute": flights["minute"],
        "weekday": WEEKDAYS.take(pc.day_of_week(scheduled)),
        "distance": flights["distance"].cast(pa.float64()),
        "scheduled_minutes": _scheduled_minutes(flights),
        **_weather_columns(flights, weather),
        "late": pc.greater(flights["arr_delay"], LATE_MINUTES).cast(pa.int8()),
    }
    return pa.table(columns)


def _scheduled_minutes(flights: pa.Table) -> pa.Array:
    """From local departure to local arrival, so the difference of the time zones is in it."""
    arrival, departure = (_minute_of_day(flights[name]) for name in ("sched_arr_time", "sched_dep_time"))
    return pa.array((arrival - departure) % (24 * 60), pa.int64())


def _minute_of_day(hhmm: pa.ChunkedArray) -> Any:
    clock = hhmm.to_numpy()
    return clock // 100 * 60 + clock % 100


def _weather_columns(flights: pa.Table, weather: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The weather of each flight's origin and hour, null where none was recorded."""
    keys, wanted = _weather_keys(weather), _weather_keys(flights)
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    rows = order[at]
    matched = keys[rows] == wanted
    indices = pa.array(rows, mask=~matched)
    return {name: weather[name].take(indices) for name in WEATHER}


def _weather_keys(table: pa.Table) -> Any:
    hours = table["time_hour"].cast(pa.int64()).to_numpy() // 3600
    return hours * len(ORIGINS) + pc.index_in(table["origin"], value_set=ORIGINS).to_numpy()


def _joined(separator: str, *arrays: Any) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(*(array.cast(pa.string()) for array in arrays), separator)


def _padded(array: pa.ChunkedArray, width: int) -> pa.ChunkedArray:
    return pc.utf8_lpad(array.cast(pa.string()), width, padding="0")
