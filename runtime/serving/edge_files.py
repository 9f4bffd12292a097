"""Where the edge keeps its files on this machine, and the secret that replicas ask for."""

import hashlib
import os
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from runtime.config.schema import PathsConfig
from runtime.core.errors import TealError
from runtime.core.files import write_atomic

SECRET = ("TEAL_EDGE_SECRET", "edge_secret")
PII_KEY = ("TEAL_PII_KEY", "pii_key")
"""Each the environment variable that holds it on a cluster, and the name of its file under run/."""
MAX_SOCKET_PATH = 90
"""Bytes. The kernel takes 107, and HAProxy binds `PATH.PID.tmp` first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EdgeFiles:
    """Every path the edge uses, all within one directory unless a socket's path would get too long."""

    directory: Path

    @classmethod
    def of(cls, paths: PathsConfig) -> "EdgeFiles":
        return cls(directory=Path(paths.run).absolute() / "edge")

    @property
    def config(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def shares(self) -> Path:
        """Map file: endpoint to `green share:generation`."""
        return self.directory / "shares.map"

    @property
    def grants(self) -> Path:
        """Map file: hash of a token to whose it is and what it may."""
        return self.directory / "grants.map"

    @property
    def limits(self) -> Path:
        """Map file: endpoint to what each of its requests is held to."""
        return self.directory / "limits.map"

    @property
    def tls(self) -> Path:
        """Directory of the certificates that HAProxy reads, each a file of its own that never changes."""
        return self.directory / "tls"

    @property
    def pid(self) -> Path:
        return self.directory / "haproxy.pid"

    @property
    def log(self) -> Path:
        return self.directory / "edge.log"

    @property
    def secret(self) -> Path:
        return self.directory.parent / "edge_secret"

    @property
    def hint(self) -> Path:
        """Touched by whoever changed the store, so that the edge looks at once."""
        return self.directory.parent / "edge.hint"

    @property
    def socket(self) -> Path:
        """Command socket of HAProxy's master process."""
        path = self.directory / "master.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"teal-edge-{os.getuid()}-{digest}" / "master.sock"

    @property
    def hold(self) -> Path:
        """Where HAProxy itself takes a gRPC call while a slot has no replica."""
        return self.socket.with_name("hold.sock")


def touch_hint(paths: PathsConfig) -> None:
    """Ask the edge of this machine to read the store now. Only a hint: it does so on its own soon after."""
    hint = EdgeFiles.of(paths).hint
    hint.parent.mkdir(parents=True, exist_ok=True)
    hint.touch()
    # Its own clock: two touches within one tick of the file system's would look like one.
    now = time.time_ns()
    os.utime(hint, ns=(now, now))


def ensure_secret(paths: PathsConfig) -> str:
    """The secret between edge and replicas, and the key of personal values, each made with mode 0600 if not there."""
    for variable, name in (SECRET, PII_KEY):
        path = Path(paths.run).absolute() / name
        if not path.exists() and variable not in os.environ:
            write_atomic(path, secrets.token_hex(32), mode=0o600)
    return read_secret(paths.run)


def read_secret(run_directory: str) -> str:
    """What the edge adds to every request, so that replicas refuse what did not come through it."""
    return _read(run_directory, *SECRET)


def read_pii_key(run_directory: str) -> bytes:
    """The key of the hashes that stand in the payload log for personal values. Whoever has it can try values out."""
    return _read(run_directory, *PII_KEY).encode()


def _read(run_directory: str, variable: str, name: str) -> str:
    """From the environment, else from its file. TealError if there is none or others can read it."""
    if secret := os.environ.get(variable):
        return secret
    path = Path(run_directory) / name
    try:
        mode = path.stat().st_mode & 0o777
        secret = path.read_text().strip()
    except OSError as error:
        raise TealError(f"cannot read the secret {path}: {error.strerror}; `teal up` makes it") from error
    if mode & 0o077:
        raise TealError(f"the secret {path} has mode {mode:04o}, others can read it; run `chmod 600 {path}`")
    if len(secret) < 16:
        raise TealError(f"the secret {path} has {len(secret)} characters; remove it and run `teal up`")
    return secret
