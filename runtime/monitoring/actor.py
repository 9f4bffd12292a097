"""The detached Ray actors "teal-monitor": replicas push to them, commands ask them, Prometheus scrapes the first.

Killed at any point, Ray starts one again, on whatever node, and it goes on from the control store. A replica that gets
no answer sends the same delta again. With several shards each endpoint has one of them, by its name's hash; the first
shard hands on what belongs to another, so that a replica need not know.
"""

import asyncio
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from runtime.cluster.nodes import ON_HEAD
from runtime.config.schema import Config
from runtime.core.errors import ContractError, TealError, UnreachableError
from runtime.monitoring.intake import Intake
from runtime.monitoring.monitor import Monitor
from runtime.monitoring.profiles import StoreProfiles
from runtime.monitoring.training_hours import TrainingHours
from runtime.store.control import ControlStore
from runtime.store.monitor_counts import SupersededError
from runtime.telemetry.logs import configure_logging
from runtime.telemetry.metrics import MetricsServer, Sample, serve_metrics

logger = logging.getLogger(__name__)

ACTOR_NAME = "teal-monitor"
NAMESPACE = "teal"
ANSWER_TIMEOUT_S = 30.0
SCRAPE_TIMEOUT_S = 5.0
STORE_PAUSE_S = 1.0


def actor_name(shard: int) -> str:
    return ACTOR_NAME if shard == 0 else f"{ACTOR_NAME}-{shard}"


def shard_of(endpoint: str, num_shards: int) -> int:
    """The same in every process and release: an endpoint's counts must stay together."""
    return zlib.crc32(endpoint.encode()) % num_shards


class MonitorActor:
    """Answers on one event loop, whose work is done by threads: one writes, one closes ticks, one answers scrapes."""

    def __init__(self, config: Config, shard: int = 0) -> None:
        configure_logging()
        self._config = config
        self._shard = shard
        _set_old_files_aside(Path(config.paths.run) / ("monitor" if shard == 0 else f"monitor-{shard}"))
        store = ControlStore.of(config.paths)
        profiles = StoreProfiles(store)
        self._monitor = _once_the_store_answers(
            lambda: Monitor(
                store,
                config.monitoring,
                profiles,
                read_vocabularies=profiles.vocabularies,
                training_hours=TrainingHours(profiles.training_hours) if config.monitoring.training_hours else None,
                shard=shard,
                owns=lambda endpoint: shard_of(endpoint, config.monitoring.num_shards) == shard,
            ),
            pause=lambda: time.sleep(STORE_PAUSE_S),
        )
        self._intake = Intake(self._write, spacing_s=config.monitoring.push_interval_s / 2)
        self._intake.start()
        self._metrics_error: str | None = None
        self._metrics: MetricsServer | None = self._serve()
        self._stopped = threading.Event()
        self._ticker = threading.Thread(target=self._tick_on, name="teal-monitor-ticks", daemon=True)
        self._ticker.start()

    async def ready(self) -> bool:
        return True

    async def ingest(self, message: dict[str, Any]) -> bool:
        """True once the delta is kept, False if it was there already or is malformed: sending it again is no use."""
        endpoint = message.get("endpoint")
        owner = shard_of(endpoint, self._config.monitoring.num_shards) if isinstance(endpoint, str) else self._shard
        if owner != self._shard:
            handle = await asyncio.to_thread(_handle, owner)
            return bool(await handle.ingest.remote(message))
        try:
            is_new = self._monitor.offer(message)
        except ContractError as error:
            logger.error("a delta is refused", extra={"reason": str(error), "replica": message.get("replica")})
            return False
        # Also one that came before: it may still wait to be written.
        await asyncio.wrap_future(self._intake.written())
        return is_new

    async def status(self) -> dict[str, Any]:
        port = None if self._metrics is None else self._metrics.port
        process = {"pid": os.getpid(), "metrics_port": port, "metrics_error": self._metrics_error}
        return await asyncio.to_thread(self._monitor.status) | process

    async def drift(self, endpoint: str | None, since: float | None, until: float | None) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._monitor.drift, endpoint, since=since, until=until)

    async def report(self, endpoint: str | None) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._monitor.report, endpoint)

    async def history(self, endpoint: str, level: str, number: int) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._monitor.history, endpoint, level=level, number=number)

    async def counters(self, endpoint: str) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._monitor.counters, endpoint)

    async def samples(self) -> list[Sample]:
        return await asyncio.to_thread(self._monitor.samples)

    async def tick(self, at: float | None = None) -> float:
        return await asyncio.to_thread(self._monitor.tick, at)

    def _write(self) -> None:
        try:
            self._monitor.write()
        except SupersededError as error:
            _end_superseded(error)

    def _serve(self) -> MetricsServer | None:
        # A taken port must not stop the counting: it is told in status, and the actor lives.
        if self._shard != 0:
            return None
        cluster = self._config.cluster
        try:
            return serve_metrics(cluster.ports.monitor_metrics, cluster.host, self._samples_of_all)
        except UnreachableError as error:
            self._metrics_error = str(error)
            logger.error("metrics are not served", extra={"reason": str(error)})
            return None

    def _samples_of_all(self) -> Iterable[Sample]:
        """The monitor's own figures are those of the first shard; a shard that does not answer is left out."""
        yield from self._monitor.samples()
        for shard in range(1, self._config.monitoring.num_shards):
            try:
                samples = _ask(_handle(shard).samples.remote(), SCRAPE_TIMEOUT_S)
            except UnreachableError as error:
                logger.warning("a scrape lacks shard %d", shard, extra={"reason": str(error)})
                continue
            yield from (sample for sample in samples if sample.labels)

    def _tick_on(self) -> None:
        while not self._stopped.wait(self._config.monitoring.tick_s):
            try:
                self._monitor.tick()
            except SupersededError as error:
                _end_superseded(error)
            except Exception as error:
                # The journal still has what the tick could not write; the next tick tries again.
                logger.exception("a tick could not be closed", extra={"reason": str(error)})


def start_monitor(config: Config) -> bool:
    """Start the actors on the joined cluster, or find them. True if this call started one. Returns when they answer."""
    is_new = False
    handles = []
    for shard in range(config.monitoring.num_shards):
        existing = _find(shard)
        if existing is None:
            is_new = True
            actor: Any = ray.remote(MonitorActor).options(
                name=actor_name(shard),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0.05,
                resources=ON_HEAD,
                max_restarts=-1,
            )
            existing = actor.remote(config, shard)
        handles.append(existing)
    for handle in handles:
        _ask(handle.ready.remote(), config.cluster.start_timeout_s)
    return is_new


def monitor_status(config: Config) -> dict[str, Any]:
    """What the actors counted, as Monitor.status; pid and port are the first's. UnreachableError if one is away."""
    first, *others = _ask_all(config, lambda handle: handle.status.remote())
    status: dict[str, Any] = dict(first)
    for other in others:
        for name in ("deltas", "duplicates", "refused", "forgotten", "replicas"):
            status[name] += other[name]
        for name in ("entries", "drift"):
            status[name] = sorted([*status[name], *other[name]], key=lambda entry: str(entry["endpoint"]))
        # The oldest: whoever asks whether the monitor is behind must hear of the shard that is.
        status["last_tick_at"] = min(status["last_tick_at"], other["last_tick_at"])
    return status


def monitor_drift(
    config: Config, endpoint: str, *, since: float | None = None, until: float | None = None
) -> list[dict[str, Any]]:
    """Drift over the ticks between two marks; one entry a slot and model version, as in `monitor_status`."""
    handle = _handle(shard_of(endpoint, config.monitoring.num_shards))
    entries: list[dict[str, Any]] = _ask(handle.drift.remote(endpoint, since, until))
    return entries


def monitor_report(config: Config, endpoint: str | None = None) -> list[dict[str, Any]]:
    """Evidence and effect sizes of one or every endpoint, as Monitor.report. NotFoundError for an unknown one."""
    if endpoint is not None:
        found: list[dict[str, Any]] = _ask(
            _handle(shard_of(endpoint, config.monitoring.num_shards)).report.remote(endpoint)
        )
        return found
    return [one for part in _ask_all(config, lambda handle: handle.report.remote(None)) for one in part]


def monitor_history(config: Config, endpoint: str, *, level: str, number: int) -> list[dict[str, Any]]:
    """The last stretches of an endpoint, as Monitor.history."""
    handle = _handle(shard_of(endpoint, config.monitoring.num_shards))
    stretches: list[dict[str, Any]] = _ask(handle.history.remote(endpoint, level, number))
    return stretches


def mark_period(config: Config) -> float:
    """End the open tick now: a boundary to ask `monitor_drift` by, in seconds since 1970.

    Replicas push every push_interval_s, so wait until `monitor_status` shows the rows of the period that ends.
    """
    boundary: float = _ask(_handle(0).tick.remote())
    for shard in range(1, config.monitoring.num_shards):
        _ask(_handle(shard).tick.remote(boundary))
    return boundary


def _once_the_store_answers(build: Callable[[], Monitor], *, pause: Callable[[], None]) -> Monitor:
    """An actor whose beginning fails is not started again: one that dies while the store is away has to wait for it."""
    while True:
        try:
            return build()
        except UnreachableError as error:
            logger.warning("the monitor waits for the control store", extra={"reason": str(error)})
        pause()


def _end_superseded(error: SupersededError) -> None:
    """This actor was cut off, and Ray has started another: whatever it still takes in would be lost."""
    logger.error("another monitor goes on, this one ends", extra={"reason": str(error)})
    os._exit(1)


def _set_old_files_aside(directory: Path) -> None:
    """Before its counts were kept in the control store, a monitor kept them in files, which are not read any more."""
    if not directory.is_dir():
        return
    aside = directory.with_name(f"{directory.name}-set-aside")
    try:
        directory.rename(aside)
    except OSError as error:
        logger.error("the monitor's old files %s cannot be set aside", directory, extra={"reason": str(error)})
        return
    logger.warning("counts are kept in the control store now and begin anew; the old files were moved to %s", aside)


def _find(shard: int = 0) -> Any:
    if not ray.is_initialized():  # get_actor would start a Ray of its own
        raise UnreachableError("not joined to a cluster; `teal up` starts one")
    try:
        return ray.get_actor(actor_name(shard), namespace=NAMESPACE)
    except ValueError:
        return None


def _handle(shard: int) -> Any:
    handle = _find(shard)
    if handle is None:
        raise UnreachableError(f"the monitor {actor_name(shard)!r} does not run; `teal up` starts it")
    return handle


def _ask_all(config: Config, call: Callable[[Any], Any]) -> list[Any]:
    references = [call(_handle(shard)) for shard in range(config.monitoring.num_shards)]
    return [_ask(reference) for reference in references]


def _ask(reference: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError as error:
        raise UnreachableError(f"the monitor did not answer within {timeout_s:g} s") from error
    except RayActorError as error:
        raise UnreachableError(f"the monitor died: {error}; Ray restarts it, try again") from error
    except RayTaskError as error:
        if isinstance(error.cause, TealError):
            raise error.cause from None
        raise
