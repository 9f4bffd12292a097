from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import yaml
from pydantic import TypeAdapter

from runtime.config.schema import DataConfig
from runtime.data.conform import conform
from runtime.data.contract import feature_names, split_valid
from runtime.data.flights import WEATHER, flight_rows

CONFIG = Path(__file__).parents[2] / "configs" / "data" / "flights.yaml"
HOUR = pa.timestamp("s", tz="UTC")

FLIGHTS = pa.table(
    {
        "year": [2013] * 4,
        "month": [1, 1, 12, 1],
        "day": [1, 1, 31, 1],
        "sched_dep_time": [515, 529, 2359, 600],
        "sched_arr_time": [819, 830, 438, 700],
        "flight": [1545, 1714, 745, 1],
        "distance": [1400, 1416, 1617, 200],
        "hour": [5, 5, 23, 6],
        "minute": [15, 29, 59, 0],
        "carrier": ["UA", "UA", "B6", "DL"],
        "origin": ["EWR", "LGA", "JFK", "EWR"],
        "dest": ["IAH", "IAH", "BQN", "BOS"],
        "arr_delay": [15.0, 16.0, None, -3.0],
        "time_hour": pa.array([10 * 3600, 10 * 3600, 0, 11 * 3600], HOUR),
    }
)
WEATHER_ROWS = pa.table(
    {
        "origin": ["LGA", "EWR", "EWR"],
        "time_hour": pa.array([10 * 3600, 12 * 3600, 10 * 3600], HOUR),
        **{name: pa.array([1.0, 2.0, 3.0]) for name in WEATHER if name not in ("wind_gust", "pressure")},
        "pressure": pa.array([1011.0, 1012.0, None]),
        "wind_gust": pa.array([None, None, 30.0]),
    }
)


def test_rows_keep_their_order_and_their_hour_of_weather() -> None:
    rows = flight_rows(FLIGHTS, WEATHER_ROWS)
    assert rows["flight_id"].to_pylist() == [
        "2013-01-01_EWR_UA1545_0515",
        "2013-01-01_LGA_UA1714_0529",
        "2013-12-31_JFK_B6745_2359",
        "2013-01-01_EWR_DL1_0600",
    ]
    assert rows["temp"].to_pylist() == [3.0, 1.0, None, None]
    assert rows["wind_gust"].to_pylist() == [30.0, None, None, None]
    assert rows["late"].to_pylist() == [0, 1, None, 0]
    assert rows["weekday"].to_pylist() == ["tue", "tue", "tue", "tue"]
    assert rows["scheduled_minutes"].to_pylist() == [184, 181, 279, 60]


def test_the_time_is_the_local_clock() -> None:
    times = flight_rows(FLIGHTS, WEATHER_ROWS)["scheduled_at"].to_pylist()
    assert times[0] == datetime(2013, 1, 1, 5, 15, tzinfo=UTC)
    assert times[2] == datetime(2013, 12, 31, 23, 59, tzinfo=UTC)


def test_rows_keep_the_contract_and_nothing_after_departure_is_a_feature() -> None:
    config = TypeAdapter(DataConfig).validate_python(yaml.safe_load(CONFIG.read_text()))
    conformed, dropped = conform(flight_rows(FLIGHTS, WEATHER_ROWS), config.columns)
    assert dropped == []
    assert split_valid(conformed, config.columns)[1] == []
    unknown_at_departure = {"dep_delay", "dep_time", "arr_time", "arr_delay", "air_time", "month", "late"}
    assert not unknown_at_departure & set(feature_names(config.columns))
