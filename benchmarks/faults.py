"""What may befall a running teal, each with the state that says it is over. `benchmarks/serving_faults.py` measures."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.faulty_site import BACK_TIMEOUT_S, ONE, PAIR, Site, await_state
from benchmarks.running_teal import CANARY_SHARE
from runtime.cluster.processes import read_process, send_signal
from runtime.cluster.token import read_token
from runtime.core.errors import TealError, UnreachableError
from runtime.rollout import operations
from runtime.serving.edge_shares import app_name
from runtime.serving.reconcile import reconcile
from runtime.store.records import SLOTS

STEPS = (1000, 2500, 5000, 7500, 10_000, 7500, 5000, 2500, 1000, 0)
CONTROLLER, EDGE_ACTOR = "ray::ServeController", "ray::EdgeActor"


class Stopwatch:
    """From the moment of the fault."""

    struck: float = 0.0
    """By `time.perf_counter`."""
    ended: float = 0.0
    """When the last process that had connections of callers was gone; 0 where none was hit."""
    back_s: float = 0.0

    @contextlib.contextmanager
    def until_back(self) -> Iterator[None]:
        self.struck = time.perf_counter()
        yield
        self.back_s = time.perf_counter() - self.struck


# -- traffic and models ------------------------------------------------------------------------------------------------


def shift_in_steps(site: Site, watch: Stopwatch) -> None:
    _shift(site, 0)
    with watch.until_back():
        for share in STEPS:
            _shift(site, share)


def redeploy_idle(site: Site, watch: Stopwatch) -> None:
    _shift(site, 0)
    with watch.until_back():
        _redeploy(site)


def redeploy_and_shift(site: Site, watch: Stopwatch) -> None:
    _shift(site, 0)
    with watch.until_back():
        _redeploy(site)
        _shift(site, 10_000)
    _shift(site, 0)


def _shift(site: Site, share: int) -> None:
    operations.shift(site.config, site.store, ONE, share, actor="benchmark")


def _redeploy(site: Site) -> None:
    """As `teal deploy` does."""
    state = site.store.endpoint(ONE)
    held = state.slot(state.canary).model
    model = next(model for model in site.models if model != held)
    site.store.assign_slot(ONE, None, model, actor="benchmark")
    reconcile(site.store, site.config, token=read_token(site.config.paths.run), keeps_settings=True)


# -- processes ---------------------------------------------------------------------------------------------------------


def kill_only_replica(site: Site, watch: Stopwatch) -> None:
    _kill_replica(site, watch, ONE, number=1)


def kill_one_of_two(site: Site, watch: Stopwatch) -> None:
    _kill_replica(site, watch, PAIR, number=2)


def _kill_replica(site: Site, watch: Stopwatch, endpoint: str, *, number: int) -> None:
    killed = next(iter(site.replicas(endpoint, "blue").values()))
    app = app_name(endpoint, "blue")

    def is_replaced() -> bool:
        pids = site.replicas(endpoint, "blue").values()
        return killed not in pids and len(pids) == number == site.num_up(app)

    with watch.until_back():
        _send(killed, signal.SIGKILL)
        await_state(is_replaced, f"a new replica in {app}")


def hang_one_of_two(site: Site, watch: Stopwatch) -> None:
    """Over once the edge asks it no more. It goes on afterwards, before Serve replaces it."""
    app = app_name(PAIR, "blue")
    hanging = next(iter(site.replicas(PAIR, "blue").values()))
    try:
        with watch.until_back():
            _send(hanging, signal.SIGSTOP)
            await_state(lambda: site.num_up(app) == 1, f"{app} without the replica that hangs")
    finally:
        _send(hanging, signal.SIGCONT)
    await_state(lambda: site.num_up(app) == 2, f"the replica that hung in {app}")


def kill_serve_proxy(site: Site, watch: Stopwatch) -> None:
    apps = {app_name(ONE, slot) for slot in SLOTS}
    killed = site.serve_proxies()
    pids = {process.pid for process in killed}
    with watch.until_back():
        for process in killed:
            send_signal(process, signal.SIGKILL)
        await_state(
            lambda: any(process.pid not in pids for process in site.serve_proxies()) and site.routes() >= apps,
            "Ray's HAProxy with its routes",
        )


def kill_controller(site: Site, watch: Stopwatch) -> None:
    _kill_actor(site, watch, CONTROLLER, site.are_applications_running)


def kill_edge_actor(site: Site, watch: Stopwatch) -> None:
    """Over once its successor has applied and acknowledged a share that was set meanwhile."""
    haproxy = site.edge_process().find()
    generations: list[int] = []

    def is_acknowledged() -> bool:
        if not generations:
            share = CANARY_SHARE + 500 * (site.store.endpoint(ONE).share == CANARY_SHARE)
            generations.append(site.store.set_share(ONE, share, actor="benchmark").generation)
        found = site.store.acknowledged(ONE, alive_since=time.time() - 5.0)
        return bool(found) and min(found.values()) >= generations[0]

    _kill_actor(site, watch, EDGE_ACTOR, is_acknowledged)
    if site.edge_process().find() != haproxy:
        raise TealError("the edge's HAProxy did not outlive its actor")


def kill_monitor(site: Site, watch: Stopwatch) -> None:
    from runtime.monitoring.actor import monitor_status

    killed = int(monitor_status(site.config)["pid"])

    def is_back() -> bool:
        try:
            return bool(monitor_status(site.config)["pid"] != killed)
        except UnreachableError:
            return False

    with watch.until_back():
        _send(killed, signal.SIGKILL)
        await_state(is_back, "the monitor")


def _kill_actor(site: Site, watch: Stopwatch, title: str, is_back: Callable[[], bool]) -> None:
    (killed,) = site.processes(title)
    with watch.until_back():
        send_signal(killed, signal.SIGKILL)
        await_state(lambda: [one.pid for one in site.processes(title)] not in ([], [killed.pid]), f"{title} again")
        await_state(is_back, f"what {title} does")


def kill_edge_worker(site: Site, watch: Stopwatch) -> None:
    """The process that has the callers' connections; its master ends with it."""
    _kill_edge(site, watch, site.edge_process().workers()[0][0])


def kill_edge_master(site: Site, watch: Stopwatch) -> None:
    """The process whose pid stands in the file; its workers end with it."""
    master = site.edge_process().find()
    if master is None:
        raise TealError("the edge has no HAProxy")
    _kill_edge(site, watch, master)


def _kill_edge(site: Site, watch: Stopwatch, pid: int) -> None:
    edge = site.edge_process()
    with contextlib.ExitStack() as stack:
        handles = []
        current, old = edge.workers()
        for one in {pid, *current, *old}:
            handles.append(os.pidfd_open(one))
            stack.callback(os.close, handles[-1])
        with watch.until_back():
            _send(pid, signal.SIGKILL)
            for handle in handles:
                if not select.select([handle], [], [], BACK_TIMEOUT_S)[0]:
                    raise TealError(f"a process of the edge outlives {pid}")
            watch.ended = time.perf_counter()
            await_state(site.answers, "an answer of the edge")


def _send(pid: int, number: signal.Signals) -> None:
    process = read_process(pid)
    if process is None:
        raise TealError(f"process {pid} is gone before it was hit")
    send_signal(process, number)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    name: str
    strike: Callable[[Site, Stopwatch], Any]
    """Returns when what was hit is back; TealError if that takes too long."""
    endpoint: str = ONE
    """Which one is asked meanwhile."""
    is_of_edge: bool = False
    """Whether nobody listens for a moment, so that connections are refused."""


FAULTS = (
    Fault(name="shift", strike=shift_in_steps),
    Fault(name="redeploy", strike=redeploy_idle),
    Fault(name="redeploy_shift", strike=redeploy_and_shift),
    Fault(name="replica", strike=kill_only_replica),
    Fault(name="replica_of_two", strike=kill_one_of_two, endpoint=PAIR),
    Fault(name="hang_of_two", strike=hang_one_of_two, endpoint=PAIR),
    Fault(name="serve_haproxy", strike=kill_serve_proxy),
    Fault(name="serve_controller", strike=kill_controller),
    Fault(name="edge_actor", strike=kill_edge_actor),
    Fault(name="monitor", strike=kill_monitor),
    Fault(name="edge_worker", strike=kill_edge_worker, is_of_edge=True),
    Fault(name="edge_master", strike=kill_edge_master, is_of_edge=True),
)
