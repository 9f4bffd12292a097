"""What a rollout reads of labels that came back: the quality ledger's join, brought up to date."""

import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, TealError
from runtime.pipeline.quality_report import MEASURED_COLUMNS, open_ledger
from runtime.rollout.labels import Labelled
from runtime.store.control import ControlStore


def read_labelled(config: Config, endpoint: str, since: float) -> Labelled | None:
    """Rows answered since then whose label is known. TealError if the tables cannot be read."""
    ledger = open_ledger(config, ControlStore.of(config.paths), endpoint)
    try:
        ledger.update(time.time())
        _, rows = ledger.read(since=datetime.fromtimestamp(since, UTC), columns=MEASURED_COLUMNS, is_labelled=True)
    except NotFoundError:
        return None
    except DeltaError as error:
        raise TealError(f"the payload log of {endpoint!r} cannot be read: {error}") from error
    models = pc.binary_join_element_wise(rows["model_name"], rows["model_version"].cast(pa.string()), ":")
    return Labelled(
        at=np.asarray(rows["at"].cast(pa.int64()), dtype=np.float64) / 1e6,
        slot=np.asarray(rows["slot"].to_pylist(), dtype=np.str_),
        model=np.asarray(models.to_pylist(), dtype=np.str_),
        score=np.asarray(rows["score"], dtype=np.float64),
        label=np.asarray(rows["label"], dtype=np.float64),
    )
