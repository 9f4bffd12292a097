"""Quality by month of the event: the payload log, the labels that came back, and which flight each row was."""

from collections.abc import Sequence

import pyarrow as pa

from runtime.core.errors import NotFoundError
from runtime.monitoring.quality import Quality, measure_quality
from runtime.pipeline.demo_record import DemoRecord
from runtime.pipeline.steps import Session
from runtime.serving.payload import feedback_uri, payload_uri, read_feedback, read_payload


def month_quality(session: Session, record: DemoRecord) -> Sequence[Quality]:
    """Quality of what was answered for each month's flights, by the labels that came back for them.

    Empty while the replicas have not written anything yet.
    """
    endpoint = session.config.serving.endpoint
    payload_root = session.config.paths.payload
    months = pa.table(
        {
            "prediction_id": [one for replayed in record.replayed for one in replayed.prediction_ids],
            "row": pa.array([row for replayed in record.replayed for row in replayed.row_numbers], pa.int32()),
            "month": [replayed.period for replayed in record.replayed for _ in replayed.prediction_ids],
            "day": [day for replayed in record.replayed for day in replayed.groups],
        }
    )
    try:
        payload = read_payload(payload_uri(payload_root, endpoint))
    except NotFoundError:
        return []
    report = measure_quality(
        payload.join(months, ["prediction_id", "row"], join_type="inner"),
        read_feedback(feedback_uri(payload_root, endpoint)),
        period_column="month",
        cluster_column="day",
    )
    order = [replayed.period for replayed in record.replayed]
    return sorted(report.qualities, key=lambda quality: (order.index(quality.period), quality.model_version))
