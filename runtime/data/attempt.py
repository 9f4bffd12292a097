"""One attempt to write a table version: files first, checks and profile next, the commit last.

Files that no commit names are invisible to readers. A failed attempt removes its own; those of a killed one are
removed by the next with the same inputs, since the names follow the inputs.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runtime.config.schema import DataConfig
from runtime.core.errors import ContractError, TealError, UnreachableError
from runtime.core.files import write_atomic
from runtime.core.hashing import canonical_json, sha256_file
from runtime.data import delta
from runtime.data.contract import Violation, arrow_schema, key_name, merge_violations
from runtime.data.encoding import Encoding
from runtime.data.fingerprint import Fingerprint
from runtime.data.profile import build_profile

if TYPE_CHECKING:
    from runtime.data.datasink import WrittenPart


class Progress(Protocol):
    def __call__(self, text: str, done: int = 0, total: int = 0) -> None:
        """`text` is what is being done now; `total` 0 means that its size is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Checked files that wait for their commit."""

    files: tuple[delta.DataFile, ...]
    rejected_files: tuple[str, ...]
    num_rows: int
    fingerprint: str
    counts: dict[str, int]
    """Rows built, outside the window, without label, rejected, written."""
    violations: tuple[Violation, ...]
    dropped_columns: tuple[str, ...]
    profile_path: str
    """Relative to the table."""
    profile_sha256: str


class Attempt:
    """A context: what it wrote is removed on leaving, unless committed."""

    def __init__(self, *, uri: str, stem: str, config: DataConfig, report: Progress) -> None:
        self._uri = uri
        self._root = Path(uri)
        self._stem = stem
        self._config = config
        self._report = report
        self._is_committed = False

    def __enter__(self) -> "Attempt":
        self._remove_files()  # of an attempt with the same inputs that was killed
        self._root.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._is_committed:
            self._remove_files()

    def write(self, build: Callable[..., Any], files: Mapping[str, Path]) -> Written:
        """Run the builder on Ray and write what keeps the contract. ContractError if too little does."""
        self._report("building rows")
        parts = self._run_builder(build, dict(files))
        fault = next((part.fault for part in parts if part.fault is not None), None)
        if fault is not None:
            raise ContractError(f"table {self._config.name!r}: {fault}")
        counts = {
            "built": sum(part.num_built for part in parts),
            "outside_window": sum(part.num_outside for part in parts),
            "unlabelled": sum(part.num_unlabelled for part in parts),
            "rejected": sum(part.num_rejected for part in parts),
            "written": sum(part.file.num_rows for part in parts if part.file),
        }
        violations = merge_violations([violation for part in parts for violation in part.violations])
        self._check_counts(counts, violations)
        written = tuple(part.file for part in parts if part.file is not None)
        self._report("building the profile")
        table = pa.concat_tables([pq.read_table(self._root / file.path, partitioning=None) for file in written])
        self._check_keys(table)
        profile_path, profile_sha256 = self._write_profile(table)
        fingerprint = Fingerprint()
        for part in parts:
            fingerprint = fingerprint.merge(part.fingerprint)
        return Written(
            files=written,
            rejected_files=tuple(part.rejected_file for part in parts if part.rejected_file is not None),
            num_rows=counts["written"],
            fingerprint=fingerprint.text,
            counts=counts,
            violations=tuple(violations),
            dropped_columns=tuple(sorted({name for part in parts for name in part.dropped_columns})),
            profile_path=profile_path,
            profile_sha256=profile_sha256,
        )

    def commit(self, written: Written, metadata: Mapping[str, str]) -> int:
        """Make the files the table's content; returns the version."""
        self._report("committing")
        version = delta.commit_overwrite(self._uri, written.files, arrow_schema(self._config.columns), metadata)
        self._is_committed = True
        return version

    def _run_builder(self, build: Callable[..., Any], files: dict[str, Path]) -> "list[WrittenPart]":
        import ray
        from ray.exceptions import RayError, RayTaskError

        from runtime.data.datasink import TableDatasink

        if not ray.is_initialized():
            raise UnreachableError("preparing data needs a connection to Ray; run `teal up` first")
        sink = TableDatasink(uri=self._uri, stem=self._stem, config=self._config)
        try:
            with _quiet_ray_data():
                build(self._config, files).write_datasink(sink)
        except RayTaskError as error:
            raise _plain_error(self._config, error.cause) from error
        except RayError as error:
            raise TealError(f"building table {self._config.name!r} failed in Ray: {error}") from error
        return sink.parts

    def _check_counts(self, counts: Mapping[str, int], violations: list[Violation]) -> None:
        name, limit = self._config.name, self._config.max_invalid_fraction
        labelled = counts["rejected"] + counts["written"]
        if counts["rejected"] > limit * labelled:
            faults = "; ".join(str(violation) for violation in violations)
            raise ContractError(
                f"table {name!r}: {counts['rejected']} of {labelled} rows break the contract, "
                f"more than max_invalid_fraction {limit:g} allows: {faults}; "
                "mend the source, or change the contract if it is wrong"
            )
        if not counts["written"]:
            raise ContractError(
                f"table {name!r} would have no rows: of {counts['built']} in the source {counts['outside_window']} are "
                f"outside since {self._config.since} until {self._config.until} and {counts['unlabelled']} lack a label"
            )

    def _check_keys(self, table: pa.Table) -> None:
        key = key_name(self._config.columns)
        if key is None:
            return
        values = table.column(key)
        distinct = pc.count_distinct(values, mode="all").as_py()
        if distinct == len(values):
            return
        counted = pc.value_counts(values)
        repeated = counted.filter(pc.greater(counted.field("counts"), 1))
        example = repeated.field("values")[0].as_py()
        raise ContractError(
            f"table {self._config.name!r}: key column {key!r} must be unique: {len(values) - distinct} rows repeat a "
            f"key, the first is {example!r}; remove the repeats or name another key"
        )

    def _write_profile(self, table: pa.Table) -> tuple[str, str]:
        encoding = Encoding.fit(table, self._config.columns)
        profile = build_profile(encoding.encode_table(table), encoding)
        relative = f"_profiles/{self._stem}.json"
        content = canonical_json({"encoding": encoding.to_json(), "profile": profile.to_json()})
        write_atomic(self._root / relative, content)
        return relative, sha256_file(self._root / relative)

    def _remove_files(self) -> None:
        # The dot is of files that were being written.
        for pattern in (f"part-{self._stem}-*", f".part-{self._stem}-*"):
            for path in self._root.glob(pattern):
                path.unlink(missing_ok=True)
        shutil.rmtree(self._root / "_rejected" / self._stem, ignore_errors=True)
        (self._root / "_profiles" / f"{self._stem}.json").unlink(missing_ok=True)
        for folder in (self._root / "_rejected", self._root / "_profiles", self._root):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _plain_error(config: DataConfig, cause: BaseException | None) -> TealError:
    """The error of a task without Ray's wrapping."""
    if isinstance(cause, TealError):
        return cause
    return TealError(f"builder {config.builder!r} of table {config.name!r} failed: {type(cause).__name__}: {cause}")


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Rows in the order of the files, and none of Ray Data's own progress and log lines."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    loggers = [logging.getLogger(name) for name in ("ray.data", "ray._private.ray_logging")]
    levels = [logger.level for logger in loggers]
    with DataContext.current(context):
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
