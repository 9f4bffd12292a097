"""From a prediction back to everything it came from."""

import time
from dataclasses import dataclass
from typing import Any

from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, UsageError
from runtime.core.ids import timestamp_ms
from runtime.pipeline.continuous_status import Chain, read_chains
from runtime.store.records import DataVersion, ModelVersion
from runtime.store.rollouts import RolloutStore

WRITE_S = 2.0
"""What a replica may take to write what it has buffered."""
POLL_S = 0.2
MAX_TRAININGS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionTrace:
    prediction_id: str
    endpoint: str
    rows: list[dict[str, Any]]
    """The logged rows of the request: features, score, slot, times."""
    model: ModelVersion
    data: DataVersion
    base: DataVersion | None
    """The prepared version below the data, where served rows were added to it."""
    chain: Chain | None
    """The training that a trigger started, with its rollout; None for a model that somebody made."""


def trace_prediction(config: Config, store: RolloutStore, prediction_id: str) -> PredictionTrace:
    """Follow a prediction id; waits for an answer so new that replicas have not written it yet.

    UsageError if it is no id of ours; NotFoundError if no payload log holds it.
    """
    try:
        answered_at = timestamp_ms(prediction_id) / 1000
    except ValueError as error:
        raise UsageError(f"{error}; take it from the answer's x-prediction-id header") from error
    written_at = answered_at + config.serving.payload_flush_s + WRITE_S
    while True:
        try:
            return _find(config, store, prediction_id)
        except NotFoundError:
            if not answered_at - WRITE_S < time.time() < written_at:
                raise
        time.sleep(POLL_S)


def _find(config: Config, store: RolloutStore, prediction_id: str) -> PredictionTrace:
    from runtime.serving.payload import find_prediction, payload_uri

    missing = NotFoundError("no endpoint has answered yet; `teal status` shows what is deployed")
    for state in store.endpoints():
        try:
            found = find_prediction(payload_uri(config.paths.payload, state.name), prediction_id)
        except NotFoundError as error:
            missing = error
            continue
        rows: list[dict[str, Any]] = found.to_pylist()
        table, _, version = str(rows[0]["data_version"]).rpartition("@")
        model = store.model_version(rows[0]["model_name"], int(rows[0]["model_version"]))
        data = store.data_version(table, int(version))
        served = data.lineage.get("served")
        return PredictionTrace(
            prediction_id=prediction_id,
            endpoint=state.name,
            rows=rows,
            model=model,
            data=data,
            base=None if served is None else store.data_version(served["base_table"], int(served["base_version"])),
            chain=_find_chain(store, model),
        )
    raise missing


def _find_chain(store: RolloutStore, model: ModelVersion) -> Chain | None:
    training = model.lineage.get("trigger", {}).get("training")
    chains = [] if training is None else read_chains(store, model.name, time.time(), limit=MAX_TRAININGS)
    return next((chain for chain in chains if chain.training.id == training), None)
