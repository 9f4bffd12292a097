"""Labels from a file to the edge. The file is checked whole before the first label is sent."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from runtime.client.calls import Label
from runtime.client.client import Client
from runtime.config.schema import Config
from runtime.core.errors import ContractError, NotFoundError
from runtime.data.parquet import check_plain_file
from runtime.pipeline.progress import Progress

LABELS_PER_REQUEST = 2_000
TOKEN_VARIABLE = "TEAL_TOKEN"
TYPES = {"prediction_id": pa.string(), "row": pa.int32(), "label": pa.int8()}


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedbackSent:
    endpoint: str
    num_labels: int
    num_accepted: int
    """Written down; whether a label fits a prediction is found when quality is measured."""
    num_requests: int


def read_labels(path: Path) -> pa.Table:
    """Columns prediction_id, row (0 where it is left out) and label of a CSV, JSON Lines or Parquet file.

    ContractError names the first row that is no label.
    """
    if not path.is_file():
        raise NotFoundError(f"no file {str(path)!r}")
    table = _read(path)
    missing = [name for name in ("prediction_id", "label") if name not in table.column_names]
    if missing:
        raise ContractError(f"{path} lacks column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    if "row" not in table.column_names:
        table = table.append_column("row", pa.array([0] * table.num_rows, pa.int32()))
    labels = pa.table({name: _cast(path, name, table[name], kind) for name, kind in TYPES.items()})
    for name, is_wrong, rule in (
        ("prediction_id", pc.equal(pc.utf8_length(labels["prediction_id"]), 0), "must be a prediction's id"),
        ("row", pc.less(labels["row"], 0), "must be at least 0"),
        ("label", pc.invert(pc.is_in(labels["label"], value_set=pa.array([0, 1], pa.int8()))), "must be 0 or 1"),
    ):
        place = pc.index(pc.fill_null(is_wrong, True), True).as_py()
        if place >= 0:
            raise ContractError(f"{path}, row {place + 1}: {name} {rule} but got {labels[name][place].as_py()!r}")
    return labels


def send_feedback(config: Config, endpoint: str, path: Path, progress: Progress) -> FeedbackSent:
    """Send the file's labels through the edge, with the bearer token in TEAL_TOKEN if there is one.

    A repetition after an interruption does no harm: the same label counts once.
    """
    labels = read_labels(path)
    accepted = requests = 0
    scheme = "https" if config.edge.tls else "http"
    url = f"{scheme}://{config.edge.host or config.cluster.host}:{config.cluster.ports.edge}"
    with Client(url, token=os.environ.get(TOKEN_VARIABLE), ca_file=_authority(config), timeout_s=30) as client:
        for batch in _batches(labels):
            accepted += client.feedback(endpoint, batch)
            requests += 1
            progress.update("sending labels", min(requests * LABELS_PER_REQUEST, labels.num_rows), labels.num_rows)
    return FeedbackSent(endpoint=endpoint, num_labels=labels.num_rows, num_accepted=accepted, num_requests=requests)


def _batches(labels: pa.Table) -> Iterator[list[Label]]:
    for start in range(0, labels.num_rows, LABELS_PER_REQUEST):
        rows = labels.slice(start, LABELS_PER_REQUEST).to_pylist()
        yield [Label(**row) for row in rows]


def _authority(config: Config) -> Path | None:
    """Whom to trust: the edge's own certificate where it signed itself, else whom this machine trusts."""
    if not config.edge.tls or config.edge.certificate is not None:
        return None
    from runtime.serving.edge_files import EdgeFiles
    from runtime.serving.edge_tls import certificate_sources

    return certificate_sources(config.edge, EdgeFiles.of(config.paths))[0]


def _read(path: Path) -> pa.Table:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        check_plain_file(path)
        return pq.read_table(path, partitioning=None)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return pa.Table.from_pylist([_parse_line(path, *line) for line in enumerate(path.read_text().splitlines(), 1)])
    if suffix == ".csv":
        try:
            options = pacsv.ConvertOptions(column_types={"prediction_id": pa.string()})
            return pacsv.read_csv(path, convert_options=options)
        except pa.ArrowInvalid as error:
            raise ContractError(f"{path} is no CSV file: {error}") from error
    raise ContractError(f"{path} must end in .csv, .jsonl or .parquet")


def _parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ContractError(f"{path}, line {number} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ContractError(f"{path}, line {number} must be an object but is {line[:80]!r}")
    return value


def _cast(path: Path, name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ContractError(f"{path}: column {name} must be {kind}: {error}") from error
