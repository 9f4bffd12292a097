"""What came back, as values. An answer that is not what it should be is InvalidAnswer, and says in what."""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.client.errors import InvalidAnswer
from runtime.client.exchange import ARROW, RawAnswer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ATTRIBUTION = "attribution_"
"""How the columns of an Arrow answer begin that explain its scores."""
SHOWN_BYTES = 120


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """The scores of one request, and who gave them."""

    prediction_id: str
    """With the row's position it names a prediction: in `feedback`, in `teal trace`."""
    model_version: str
    slot: str
    generation: int
    """Of the endpoint's state that routed the request; 0 where no edge was asked."""
    scores: "NDArray[np.float64]"
    """[rows], in the order sent."""
    data_version: str
    request_id: str
    attributions: tuple[dict[str, float], ...] | None = None
    """By row: what each feature added to `baseline_score` to make the row's score. None unless asked for."""
    baseline_score: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What an endpoint serves and what its rows must look like."""

    endpoint: str
    slot: str
    model_version: str
    data_version: str
    columns: dict[str, dict[str, Any]]


def read_prediction(answer: RawAnswer, num_rows: int) -> Prediction:
    import numpy as np

    content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    parts = _read_arrow(answer.body) if content_type == ARROW else _read_json(answer)
    for name in ("prediction_id", "model_version"):
        if type(parts[name]) is not str:
            raise InvalidAnswer(f"the answer lacks {name}: {_shown(answer.body)}")
    scores = parts["scores"]
    if scores.shape != (num_rows,):
        raise InvalidAnswer(f"{num_rows} rows were sent but {len(scores)} scores came back")
    if not np.isfinite(scores).all():
        raise InvalidAnswer(f"score of row {int(np.argmin(np.isfinite(scores)))} is not finite")
    return Prediction(
        slot=answer.headers.get("x-slot", ""),
        generation=_read_integer(answer.headers.get("x-generation")),
        data_version=answer.headers.get("x-data-version", ""),
        request_id=answer.headers.get("x-request-id", ""),
        **parts,
    )


def read_accepted(answer: RawAnswer) -> int:
    accepted = _read_object(answer).get("accepted")
    if type(accepted) is not int:
        raise InvalidAnswer(f"the answer to feedback lacks 'accepted': {_shown(answer.body)}")
    return accepted


def read_description(answer: RawAnswer) -> Description:
    document = _read_object(answer)
    members = {name: document.get(name) for name in ("endpoint", "slot", "model_version", "data_version", "columns")}
    for name, value in members.items():
        if not isinstance(value, dict if name == "columns" else str):
            raise InvalidAnswer(f"the description's {name!r} is {value!r}")
    return Description(**members)  # type: ignore[arg-type]


def read_error(answer: RawAnswer) -> dict[str, Any]:
    """The members of the answer's error; none if it is not one of teal's."""
    try:
        error = json.loads(answer.body)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return error if isinstance(error, dict) and isinstance(error.get("message"), str) else {}


def read_retry_after_s(answer: RawAnswer) -> float | None:
    """Seconds that the answer asks to wait. A date, which a server of teal never sends, counts as none."""
    try:
        seconds = float(answer.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _read_object(answer: RawAnswer) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer(f"the answer is not JSON: {_shown(answer.body)}") from error
    if not isinstance(document, dict):
        raise InvalidAnswer(f"the answer is not a JSON object: {_shown(answer.body)}")
    return document


def _read_json(answer: RawAnswer) -> dict[str, Any]:
    import numpy as np

    document = _read_object(answer)
    rows, baseline_score = document.get("predictions"), document.get("baseline_score")
    try:
        return {
            "prediction_id": document.get("prediction_id"),
            "model_version": document.get("model_version"),
            "scores": np.array([row["score"] for row in rows or []], dtype=np.float64),
            "attributions": (
                None if baseline_score is None else tuple(dict(row["attributions"]) for row in rows or [])
            ),
            "baseline_score": None if baseline_score is None else float(baseline_score),
        }
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise InvalidAnswer(f"the answer's predictions are not scores: {error!r}") from error


def _read_arrow(body: bytes) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(body).read_all()
        metadata = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
        explained = [name for name in table.column_names if name.startswith(ATTRIBUTION)]
        attributions = table.select(explained).rename_columns([name.removeprefix(ATTRIBUTION) for name in explained])
        return {
            "prediction_id": metadata.get("prediction_id"),
            "model_version": metadata.get("model_version"),
            "scores": table["score"].to_numpy().astype(np.float64),
            "attributions": tuple(attributions.to_pylist()) if explained else None,
            "baseline_score": float(metadata["baseline_score"]) if explained else None,
        }
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise InvalidAnswer(f"the answer is no Arrow stream of scores: {error}") from error


def _read_integer(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _shown(body: bytes) -> str:
    return repr(body[:SHOWN_BYTES]) + ("…" if len(body) > SHOWN_BYTES else "")
