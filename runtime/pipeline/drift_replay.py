"""`teal monitor replay`: the drift detector over rows that already are, to see what a budget and a margin would mean.

The reference is the training profile of a model version, or the part of the rows before the stretch that is replayed.
The table's own time makes the ticks. Rows need no labels; outputs are taken from a payload log, or left out.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runtime.core.errors import NotFoundError, UsageError
from runtime.data.contract import feature_names, time_name
from runtime.data.counts import Counts
from runtime.data.delta import parse_moment, read_table
from runtime.data.encoding import Encoding
from runtime.data.profile import Profile, build_profile
from runtime.models.manifest import PROFILE_FILE, read_manifest
from runtime.monitoring.detector import DetectorConfig, DriftDetector, fold_cells
from runtime.monitoring.references import build_reference
from runtime.monitoring.training_rows import count_rows
from runtime.pipeline.steps import CHAMPION, Session
from runtime.serving.payload import payload_column, payload_uri, read_payload
from runtime.store.records import ModelVersion

DEFAULT_BUDGETS_DAYS = (1.0, 7.0, 30.0, 365.0)
NUM_CULPRITS = 5
MAX_TICKS = 1_000_000
PAYLOAD_AT, PAYLOAD_SCORE = "payload:at", "payload:score"
"""No column of a contract is called so."""
_STRETCH = re.compile(r"(?P<table>[^@]+)(@(?P<since>[^@]*?)\.\.(?P<until>[^@]*))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayAlarm:
    tick: int
    """Counted from 1, ticks with rows only."""
    at: float
    """End of that tick, seconds since 1970 of the table's time."""
    culprits: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayRun:
    """One budget. After each alarm the evidence begins anew."""

    budget_days: float
    margin: float
    alarms: list[ReplayAlarm]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    since: float
    until: float
    tick_s: float
    num_rows: int
    num_ticks: int
    reference: str
    runs: list[ReplayRun]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Rows to replay, with what encodes them and what they are compared with."""

    rows: pa.Table
    time_column: str
    score_column: str | None
    encoding: Encoding
    profile: Profile
    reference: str
    unlogged: frozenset[str] = frozenset()
    """Features that the rows lack, as personal columns never reach the payload log; they are not watched."""


def replay_history(
    session: Session,
    stretch: str,
    *,
    model: str | None = None,
    tick_s: float = 3600.0,
    budgets_days: Sequence[float] | None = None,
    margin: float | None = None,
    is_payload: bool = False,
) -> Replay:
    """Run the detector over TABLE@SINCE..UNTIL once for each budget. Reads only.

    UsageError for a stretch that is not understood, NotFoundError where it holds no rows or there is no model.
    """
    table, since, until = parse_stretch(stretch)
    if tick_s <= 0:
        raise UsageError(f"--tick must be above 0 but got {tick_s:g}")
    source = (
        _payload_source(session, table, since, until, model)
        if is_payload
        else _table_source(session, table, since, until, model)
    )
    if not source.rows.num_rows:
        raise NotFoundError(f"no rows within {stretch!r}")
    config = session.config.monitoring
    return replay_rows(
        source.rows,
        time_column=source.time_column,
        score_column=source.score_column,
        encoding=source.encoding,
        profile=source.profile,
        reference=source.reference,
        unlogged=source.unlogged,
        tick_s=tick_s,
        budgets_days=budgets_days or DEFAULT_BUDGETS_DAYS,
        margin=config.drift_margin if margin is None else margin,
        decays=tuple(config.drift_decays),
    )


def replay_rows(
    rows: pa.Table,
    *,
    time_column: str,
    score_column: str | None,
    encoding: Encoding,
    profile: Profile,
    reference: str,
    tick_s: float,
    budgets_days: Sequence[float],
    margin: float,
    decays: tuple[float, ...],
    unlogged: frozenset[str] = frozenset(),
) -> Replay:
    """The detector over the rows by their time, against the profile's own counts."""
    seconds = rows.column(time_column).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy() / 1e6
    numbers = np.floor(seconds / tick_s).astype(np.int64)
    if numbers.max() - numbers.min() >= MAX_TICKS:
        raise UsageError(f"--tick {tick_s:g} makes more than {MAX_TICKS:,} ticks of this stretch; take a longer one")
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=numbers.min() - 1))
    encoded = encoding.encode_table(rows)
    scores = None if score_column is None else rows.column(score_column).to_numpy()
    if score_column is None and profile.counts.score.any():
        # Without outputs to compare, the profile's own must not stand for a feature that never moves.
        zero = Counts.zero(*profile.counts.shape)
        profile = replace(profile, counts=replace(profile.counts, score=zero.score, score_moments=zero.score_moments))
    against = build_reference(profile, profile.counts, reference)
    shares = {name: found for name, found in against.probabilities.items() if name not in unlogged}
    sizes = {name: found.size for name, found in shares.items()}
    detectors = [
        DriftDetector(
            DetectorConfig(budget_ticks=max(days * 86_400 / tick_s, 1.0), margin=margin, decays=decays), sizes
        )
        for days in budgets_days
    ]
    alarms: list[list[ReplayAlarm]] = [[] for _ in detectors]
    for tick, part in enumerate(np.split(order, starts[1:]), start=1):
        part_scores = None if scores is None else scores[part]
        cells = fold_cells(profile, count_rows(profile, encoded.numeric[part], encoded.categorical[part], part_scores))
        watched = {name: seen for name, seen in cells.items() if name in shares}
        for detector, found in zip(detectors, alarms, strict=True):
            if detector.update(watched, shares, against.allowance):
                culprits = [one.feature for one in detector.culprits() if one.log_evidence > 0][:NUM_CULPRITS]
                at = float((numbers[part[0]] + 1) * tick_s)
                found.append(ReplayAlarm(tick=tick, at=at, culprits=culprits))
                detector.restart()
    return Replay(
        since=float(seconds.min()),
        until=float(seconds.max()),
        tick_s=tick_s,
        num_rows=rows.num_rows,
        num_ticks=len(starts),
        reference=reference,
        runs=[
            ReplayRun(budget_days=days, margin=margin, alarms=found)
            for days, found in zip(budgets_days, alarms, strict=True)
        ],
    )


def parse_stretch(text: str) -> tuple[str, datetime | None, datetime | None]:
    """TABLE, TABLE@SINCE..UNTIL, TABLE@SINCE.. or TABLE@..UNTIL."""
    match = _STRETCH.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} must look like TABLE@2013-06-01..2013-08-01")
    since, until = (parse_moment(match[name]) if match[name] else None for name in ("since", "until"))
    if since is not None and until is not None and since >= until:
        raise UsageError(f"{text!r} ends before it begins")
    return match["table"], since, until


def _table_source(
    session: Session, table: str, since: datetime | None, until: datetime | None, model: str | None
) -> _Source:
    version = session.store.data_version(table)
    columns = session.config.data.columns
    time_column = time_name(columns)
    if time_column is None:
        raise UsageError(f"table {table!r} has no column with role time, which a replay goes by")
    wanted = [*feature_names(columns), time_column]

    def read(first: datetime | None, last: datetime | None) -> pa.Table:
        return read_table(version.uri, version.version, wanted, first, last, time_column)

    reference = _reference_model(session, model, session.config.serving.endpoint)
    if reference is not None:
        encoding, profile = _load(reference)
        name = f"the training rows of {reference.label}"
    elif since is not None:
        before = read(None, since)
        if not before.num_rows:
            raise NotFoundError(f"no model to compare with and no rows of {table!r} before {since.isoformat()}")
        encoding = Encoding.fit(before, columns)
        profile = build_profile(encoding.encode_table(before), encoding)
        name = f"the {before.num_rows:,} rows before {since.date().isoformat()}"
    else:
        raise UsageError("without a model a replay needs SINCE: the rows before it are the reference")
    return _Source(
        rows=read(since, until),
        time_column=time_column,
        score_column=None,
        encoding=encoding,
        profile=profile,
        reference=name,
    )


def _payload_source(
    session: Session, endpoint: str, since: datetime | None, until: datetime | None, model: str | None
) -> _Source:
    """The logged rows that the reference's own version answered."""
    reference = _reference_model(session, model, endpoint)
    if reference is None:
        raise NotFoundError(f"endpoint {endpoint!r} has no champion; --model says whose training rows to compare with")
    encoding, profile = _load(reference)
    rows = read_payload(payload_uri(session.config.paths.payload, endpoint), since=since, until=until)
    rows = rows.filter(pc.equal(rows["model_version"], reference.version))
    columns = {
        name: rows[payload_column(name)]
        if payload_column(name) in rows.column_names
        else pa.nulls(rows.num_rows, pa.float64() if name in encoding.numeric else pa.string())
        for name in (*encoding.numeric, *encoding.categorical)
    }
    return _Source(
        rows=pa.table(columns | {PAYLOAD_AT: rows["at"], PAYLOAD_SCORE: rows["score"]}),
        time_column=PAYLOAD_AT,
        score_column=PAYLOAD_SCORE,
        encoding=encoding,
        profile=profile,
        reference=f"the training rows of {reference.label}",
        unlogged=frozenset(name for name in columns if payload_column(name) not in rows.column_names),
    )


def _reference_model(session: Session, model: str | None, endpoint: str) -> ModelVersion | None:
    if model is not None:
        return session.registry.resolve(model)
    return session.store.alias(endpoint, CHAMPION)


def _load(model: ModelVersion) -> tuple[Encoding, Profile]:
    directory = Path(model.bundle_uri.removeprefix("file://"))
    manifest = read_manifest(directory)
    profile = Profile.from_json(json.loads((directory / PROFILE_FILE).read_bytes()))
    return Encoding.from_json(manifest.encoding), profile
