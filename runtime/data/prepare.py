"""Raw files to a version of a Delta table, unless the same inputs already made one. Source files, contract, window and
builder are the inputs: all of them, and nothing else, decide the rows.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.config.schema import DataConfig, PathsConfig
from runtime.core.clock import utc_now
from runtime.core.errors import ConfigError
from runtime.core.git import CodeVersion
from runtime.core.hashing import canonical_json, sha256_file, sha256_json
from runtime.core.imports import load_object
from runtime.data import delta
from runtime.data.attempt import Attempt, Progress, Written
from runtime.data.contract import contract_to_json
from runtime.data.current import make_current
from runtime.data.sources import Source, resolve_sources, unpacked_path
from runtime.store.control import ControlStore
from runtime.store.records import DataVersion

STEP_NAME = "prepare"
FORMAT = 1
"""Raised when the same inputs would give other bytes, so that no older version is taken for the new one."""

_KEY = "teal.step_key"
_LINEAGE = "teal.lineage"
_ROWS = "teal.num_rows"
_FINGERPRINT = "teal.fingerprint"
_CREATED_AT = "teal.created_at"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    version: DataVersion
    is_new: bool
    """False where the same inputs had made this version before; nothing was written then."""


def prepare(
    config: DataConfig,
    *,
    paths: PathsConfig,
    store: ControlStore,
    code: CodeVersion,
    origin: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Prepared:
    """Build, check and commit one version of the table, and record it in the store. Needs a connection to Ray.

    It is the table's current version afterwards, also where it was made long before. `origin` joins its lineage.
    A kill at any moment leaves the old version or the new one; the next call finishes what was committed and not
    recorded. ContractError if more rows than `max_invalid_fraction` break the contract, if keys repeat, or if no row
    is left: nothing is written then.
    """
    report = on_progress or _ignore
    _check_window(config)
    uri = delta.table_uri(paths.warehouse, config.name)
    report("hashing sources")
    sources = resolve_sources(config.sources)
    build = load_object(config.builder, config.allowed_modules)
    inputs = _inputs(config, sources, build)
    key = sha256_json({"uri": uri, **inputs})
    done = _find_recorded(store, uri, key)
    if done is not None:
        make_current(store, done)
        return Prepared(version=done, is_new=False)
    with delta.table_lock(uri):
        # Another process may have done it while this one waited; or one was killed between commit and record.
        done = _find_recorded(store, uri, key)
        if done is not None:
            make_current(store, done)
            return Prepared(version=done, is_new=False)
        version = _find_committed(uri, config.name, key)
        if version is None:
            cache = Path(paths.home) / "cache" / "sources"
            with Attempt(uri=uri, stem=key[:16], config=config, report=report) as attempt:
                files = {name: unpacked_path(source, cache) for name, source in sources.items()}
                written = attempt.write(build, files)
                lineage = _lineage(config, sources, inputs, code, written) | dict(origin or {})
                metadata = {
                    _KEY: key,
                    _LINEAGE: canonical_json(lineage),
                    _ROWS: str(written.num_rows),
                    _FINGERPRINT: written.fingerprint,
                    _CREATED_AT: utc_now(),
                }
                version = _data_version(uri, config.name, attempt.commit(written, metadata), metadata)
        _record(store, version, key)
    return Prepared(version=version, is_new=True)


def _check_window(config: DataConfig) -> None:
    since, until = (delta.parse_moment(text) if text else None for text in (config.since, config.until))
    if since is not None and until is not None and since >= until:
        raise ConfigError(f"data.since {config.since} must be before data.until {config.until}")


def _inputs(config: DataConfig, sources: dict[str, Source], build: Callable[..., Any]) -> dict[str, Any]:
    """Everything that decides the rows, by content: where a source lies does not count."""
    settings = {name: value for name, value in asdict(config).items() if name != "sources"}
    module_path = inspect.getsourcefile(build)
    return {
        "format": FORMAT,
        "config_sha256": sha256_json(settings),
        "builder_sha256": sha256_file(Path(module_path)) if module_path else "",
        "source_sha256": {name: source.sha256 for name, source in sources.items()},
    }


def _lineage(
    config: DataConfig, sources: dict[str, Source], inputs: dict[str, Any], code: CodeVersion, written: Written
) -> dict[str, Any]:
    return {
        "sources": {name: source.to_json() for name, source in sources.items()},
        "inputs": inputs,
        "config": asdict(config),
        "contract": contract_to_json(config.columns),
        "code": asdict(code),
        "counts": written.counts,
        "violations": [asdict(violation) for violation in written.violations],
        "dropped_columns": list(written.dropped_columns),
        "files": [{"path": file.path, "sha256": file.sha256, "rows": file.num_rows} for file in written.files],
        "rejected_files": list(written.rejected_files),
        "profile": {"path": written.profile_path, "sha256": written.profile_sha256},
    }


def _find_recorded(store: ControlStore, uri: str, key: str) -> DataVersion | None:
    outputs = store.step_outputs(key)
    if outputs is None:
        return None
    newest = delta.newest_version(uri)
    if newest is None or outputs["version"] > newest:
        return None  # the warehouse was removed: build it again
    return store.data_version(outputs["table"], outputs["version"])


def _find_committed(uri: str, table: str, key: str) -> DataVersion | None:
    """A version with these inputs that was committed but never recorded in this store."""
    commit = next((commit for commit in delta.history(uri) if commit.get(_KEY) == key), None)
    return None if commit is None else _data_version(uri, table, commit["version"], commit)


def _data_version(uri: str, table: str, version: int, metadata: dict[str, Any]) -> DataVersion:
    return DataVersion(
        table=table,
        version=version,
        uri=uri,
        num_rows=int(metadata[_ROWS]),
        fingerprint=metadata[_FINGERPRINT],
        lineage=json.loads(metadata[_LINEAGE]),
        created_at=metadata[_CREATED_AT],
    )


def _record(store: ControlStore, version: DataVersion, key: str) -> None:
    store.record_data_version(version)
    store.record_step(key, STEP_NAME, {"table": version.table, "version": version.version})
    make_current(store, version)


def _ignore(text: str, done: int = 0, total: int = 0) -> None:
    return None
