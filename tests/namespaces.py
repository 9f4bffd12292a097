"""Machines of one network, each a network namespace of this one: Linux, root, `ip netns`."""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Machine:
    """One namespace with an address."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    def command(self, *command: str) -> list[str]:
        """The command as it is run on this machine."""
        return ["ip", "netns", "exec", self.name, *command]

    def call(self, function: Callable[[], T]) -> T:
        """Run it here, in a thread whose sockets are this machine's, and wait for it."""
        return self.start(function).result()

    def start(self, function: Callable[[], T]) -> "Future[T]":
        done: Future[T] = Future()

        def run() -> None:
            try:
                self.enter()
                done.set_result(function())
            except BaseException as error:  # noqa: BLE001  (raised where the result is asked for)
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return done

    def kill(self) -> list[int]:
        """SIGKILL every process of this machine; none of them gets a last word. Returns their pids."""
        killed: list[int] = []
        while pids := self._pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed += pids
        return killed

    def _pids(self) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        # This process may have threads here.
        return [int(pid) for pid in listed.stdout.split() if int(pid) != os.getpid() and not _is_dead(int(pid))]

    def enter(self) -> None:
        """From now on this thread, and all threads and processes that it starts, are of this machine."""
        with open(f"/var/run/netns/{self.name}") as namespace:
            if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def two_machines(prefix: str) -> Iterator[tuple[Machine, Machine]]:
    """Joined by a cable of their own, so that nothing of this machine's network is touched. PermissionError if the
    kernel does not allow it."""
    machines = (Machine(f"{prefix}-a", "10.231.77.1"), Machine(f"{prefix}-b", "10.231.77.2"))
    try:
        for machine in machines:
            _ip("netns", "add", machine.name)
        first, second = (machine.name for machine in machines)
        _ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for machine in machines:
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", machine.name, "link", "set", device, "up")
        yield machines
    finally:
        for machine in machines:
            with contextlib.suppress(PermissionError, subprocess.CalledProcessError):
                machine.kill()
                _ip("netns", "delete", machine.name)


def _ip(*arguments: str) -> None:
    try:
        result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PermissionError("there is no `ip` program") from error
    if result.returncode != 0:
        raise PermissionError(f"`ip {' '.join(arguments)}`: {result.stderr.strip()}")


def _is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
