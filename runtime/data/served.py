"""The builder of a table's next version from one of its versions and rows that were served and labelled since.

Its only source is a manifest, a small JSON file that names both with their hashes, so that the manifest's own hash
stands for all rows.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from runtime.config.schema import ColumnConfig, DataConfig
from runtime.core.errors import ConfigError, ContractError, NotFoundError
from runtime.core.files import write_atomic
from runtime.core.hashing import canonical_json, sha256_file, sha256_json
from runtime.data.contract import ARROW_TYPES
from runtime.data.delta import newest_version
from runtime.data.parquet import check_plain_file, write_parquet

if TYPE_CHECKING:
    from ray.data import Dataset

BUILDER = "runtime.data.served:build"
SOURCE = "manifest"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedManifest:
    base_table: str
    base_version: int
    base_uri: str
    base_fingerprint: str
    rows: str
    """Name of the Parquet file of served rows beside the manifest."""
    rows_sha256: str
    num_rows: int
    payload_uri: str
    payload_version: int
    feedback_uri: str
    feedback_version: int
    conflicts: str
    """Which of two labels of a row counted."""
    since: str
    """When the first of the served rows was asked, ISO 8601 in UTC."""
    until: str
    """When the last one was."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def served_config(config: DataConfig, manifest: Path) -> DataConfig:
    """The table's configuration with this manifest as what its next version is built of."""
    modules = [*config.allowed_modules, *({"runtime.data"} - set(config.allowed_modules))]
    return replace(
        config, builder=BUILDER, sources={SOURCE: str(manifest)}, since=None, until=None, allowed_modules=modules
    )


def contract_rows(logged: pa.Table, columns: Mapping[str, ColumnConfig], names: Mapping[str, str]) -> pa.Table:
    """Rows of the payload log, with `label`, as rows of the table. `names` has each feature's column in the log.

    The key is prediction id and row, the time that of the request, the group its day. ContractError for a column that
    can be filled from neither and must not be null.
    """
    ids = pc.binary_join_element_wise(logged["prediction_id"], logged["row"].cast(pa.string()), "/")
    days = pc.strftime(logged["at"], format="%Y-%m-%d")
    by_role: dict[str, Any] = {"key": ids, "group": days, "time": logged["at"], "label": logged["label"]}
    arrays: dict[str, Any] = {}
    for name, column in columns.items():
        kind = ARROW_TYPES[column.type]
        found = by_role.get(column.role)
        if column.role == "feature" and names.get(name) in logged.column_names:
            found = logged[names[name]]
        if found is not None and (found.type == kind or _is_safe(found.type, kind)):
            arrays[name] = found.cast(kind)
        elif column.nullable:
            arrays[name] = pa.nulls(logged.num_rows, kind)
        else:
            why = "personal columns are not logged" if column.pii else f"it is a {column.type} of role {column.role}"
            raise ContractError(
                f"column {name!r} cannot be filled from the payload log: {why}; make it nullable, or train on the "
                "table alone"
            )
    return pa.table(arrays)


def write_served(directory: Path, rows: pa.Table, manifest: Mapping[str, Any]) -> Path:
    """Write served rows and their manifest, named by its content; returns the manifest's path.

    `manifest` has ServedManifest's fields but those of the rows' file.
    """
    name = sha256_json({"manifest": dict(manifest), "rows": rows.num_rows})[:16]
    digest = write_parquet(directory / f"{name}.parquet", rows)
    whole = ServedManifest(rows=f"{name}.parquet", rows_sha256=digest, num_rows=rows.num_rows, **manifest)
    path = directory / f"{name}.json"
    write_atomic(path, canonical_json(whole.to_json()))
    return path


def read_manifest(path: Path) -> ServedManifest:
    """ContractError if the file is no manifest, or the rows it names were changed."""
    try:
        manifest = ServedManifest(**json.loads(path.read_bytes()))
    except (TypeError, ValueError) as error:
        raise ContractError(f"{path} is no manifest of served rows: {error}") from error
    rows = path.parent / manifest.rows
    if not rows.is_file():
        raise NotFoundError(f"the served rows of {path} are gone: no file {rows}")
    if sha256_file(rows) != manifest.rows_sha256:
        raise ContractError(f"{rows} was changed after it was written; start a new training")
    return manifest


def build(config: DataConfig, sources: dict[str, Path]) -> "Dataset":
    """The base version's rows and the served ones. ConfigError without a source named `manifest`."""
    import ray.data

    if set(sources) != {SOURCE}:
        raise ConfigError(f"data.sources must hold {SOURCE!r} alone but has {sorted(sources)}")
    path = sources[SOURCE]
    manifest = read_manifest(path)
    newest = newest_version(manifest.base_uri)
    if newest is None or newest < manifest.base_version:
        raise NotFoundError(f"{manifest.base_table}@{manifest.base_version} is gone; prepare the table again")
    files = DeltaTable(manifest.base_uri, version=manifest.base_version).file_uris()
    paths = [*(name.removeprefix("file://") for name in files), str(path.parent / manifest.rows)]
    for name in paths:
        check_plain_file(Path(name))
    parts = [
        ray.data.read_parquet(part, override_num_blocks=1, partitioning=None, columns=list(config.columns))
        for part in (paths[:-1], paths[-1:])
        if part
    ]
    return parts[0] if len(parts) == 1 else parts[0].union(*parts[1:])


def _is_safe(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether the log's type says the same: integers of other widths, other kinds of text."""
    if pa.types.is_integer(found):
        return bool(pa.types.is_integer(wanted) or pa.types.is_floating(wanted))
    if pa.types.is_floating(found):
        return bool(pa.types.is_floating(wanted))
    is_text = pa.types.is_large_string(found) or pa.types.is_string(found) or pa.types.is_string_view(found)
    return bool(is_text and pa.types.is_string(wanted))
