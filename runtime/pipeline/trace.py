"""From a prediction back to everything it came from."""

from dataclasses import dataclass
from typing import Any

from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, UsageError
from runtime.core.ids import timestamp_ms
from runtime.store.control import ControlStore
from runtime.store.records import DataVersion, ModelVersion


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionTrace:
    prediction_id: str
    endpoint: str
    rows: list[dict[str, Any]]
    """The logged rows of the request: features, score, slot, times."""
    model: ModelVersion
    data: DataVersion


def trace_prediction(config: Config, store: ControlStore, prediction_id: str) -> PredictionTrace:
    """Follow a prediction id. UsageError if it is no id of ours; NotFoundError if no payload log holds it."""
    from runtime.serving.payload import find_prediction, payload_uri

    try:
        timestamp_ms(prediction_id)
    except ValueError as error:
        raise UsageError(f"{error}; take it from the answer's x-prediction-id header") from error
    missing = NotFoundError("no endpoint has answered yet; `teal status` shows what is deployed")
    for state in store.endpoints():
        try:
            found = find_prediction(payload_uri(config.paths.payload, state.name), prediction_id)
        except NotFoundError as error:
            missing = error
            continue
        rows: list[dict[str, Any]] = found.to_pylist()
        table, _, version = str(rows[0]["data_version"]).rpartition("@")
        return PredictionTrace(
            prediction_id=prediction_id,
            endpoint=state.name,
            rows=rows,
            model=store.model_version(rows[0]["model_name"], int(rows[0]["model_version"])),
            data=store.data_version(table, int(version)),
        )
    raise missing
