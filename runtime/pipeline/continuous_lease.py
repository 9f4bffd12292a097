"""One process at a time trains an endpoint again. One that was killed makes room at once on its own machine, elsewhere
when its lease ends.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.cluster.processes import read_process
from runtime.core.errors import ConflictError, RefusedError, UnreachableError
from runtime.core.ids import new_id
from runtime.store.leases import LeaseStore
from runtime.store.records import Lease

logger = logging.getLogger(__name__)

LEASE_S = 60.0
WAIT_S = 1.0
Check = Callable[[], None]
"""Raises ConflictError once the endpoint is another process's."""


@contextmanager
def only_here(store: LeaseStore, endpoint: str, *, on_wait: Callable[[str], None] | None = None) -> Iterator[Check]:
    """Hold the endpoint's lease, and renew it meanwhile.

    While another process has it: RefusedError, or with `on_wait` wait, and tell why.
    """
    name, holder = lease_name(endpoint), f"{_here()} {new_id()}"
    while (lease := _acquire(store, name, holder)) is None:
        why = f"another process trains {endpoint!r} again"
        if on_wait is None:
            raise RefusedError(f"{why}; `teal continuous status` shows how far it is")
        on_wait(f"{why}; waiting until it ends")
        time.sleep(WAIT_S)
    done, lost = threading.Event(), threading.Event()

    def renew(lease: Lease) -> None:
        while not done.wait(LEASE_S / 3):
            try:
                if store.renew_lease(lease, LEASE_S, time.time()) is None:
                    lost.set()
                    return
            except UnreachableError as error:
                logger.warning("cannot renew the lease %s: %s", name, error)

    def check() -> None:
        if lost.is_set():
            raise ConflictError(f"another process took over the training of {endpoint!r}; this one stops")

    thread = threading.Thread(target=renew, args=(lease,), name="lease of continuous training", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        done.set()
        thread.join()
        store.release_lease(lease)


def is_looked_after(store: LeaseStore, endpoint: str, now: float) -> bool:
    """Whether a process holds the endpoint's lease and, as far as can be seen from here, lives."""
    lease = store.lease(lease_name(endpoint))
    return lease is not None and lease.expires_at > now and not _was_killed(lease)


def lease_name(endpoint: str) -> str:
    return f"continuous {endpoint}"


def _acquire(store: LeaseStore, name: str, holder: str) -> Lease | None:
    lease = store.acquire_lease(name, holder, LEASE_S, time.time())
    if lease is not None:
        return lease
    found = store.lease(name)
    if found is None or not _was_killed(found):
        return None
    store.release_lease(found)
    return store.acquire_lease(name, holder, LEASE_S, time.time())


def _was_killed(lease: Lease) -> bool:
    """Told only of processes of this machine, and of this container if it is one."""
    place, _, rest = lease.holder.partition(" ")
    pid, _, started = rest.partition(" ")[0].partition("/")
    if place != _place() or not (pid.isdigit() and started.isdigit()):
        return False
    process = read_process(int(pid))
    return process is None or process.start_ticks != int(started)


def _here() -> str:
    process = read_process(os.getpid())
    return _place() if process is None else f"{_place()} {process.pid}/{process.start_ticks}"


def _place() -> str:
    """Of this boot of this machine; processes of another container have other numbers."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{Path('/proc/self/ns/pid').stat().st_ino}"
