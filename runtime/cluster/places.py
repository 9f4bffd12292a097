"""Where a home's cluster keeps its files. One directory a home, so that two clusters never share one."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from runtime.config.schema import Config
from runtime.core.errors import ConfigError, TealError

MARKER = "TEAL_CLUSTER"
"""Environment variable of every process of a cluster, set to its temporary directory."""

MAX_SOCKET_PATH_BYTES = 107
# The longest socket that is bound below `temp`: HAProxy's, under a 56 digit node id, with its own `.PID.tmp` behind.
LONGEST_SOCKET_BYTES = len(f"/haproxy/{'f' * 56}/metrics.sock")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterPlaces:
    run: Path
    temp: Path
    """Closed to others, as Ray opens its session to everybody, and its HAProxy the admin socket."""

    @classmethod
    def of(cls, config: Config) -> "ClusterPlaces":
        home = Path(config.paths.home).resolve()
        root = Path(config.cluster.temp_root).resolve()
        temp = root / f"teal-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"
        num_bytes = len(os.fsencode(temp)) + LONGEST_SOCKET_BYTES
        if num_bytes > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"cluster.temp_root {str(root)!r} is too long: a socket below it would have {num_bytes} bytes "
                f"but at most {MAX_SOCKET_PATH_BYTES} are possible; set cluster.temp_root to a shorter directory"
            )
        return cls(run=Path(config.paths.run).absolute(), temp=temp)

    @property
    def state(self) -> Path:
        return self.run / "cluster.json"

    @property
    def lock(self) -> Path:
        return self.run / "cluster.lock"

    @property
    def log(self) -> Path:
        return self.run / "ray_start.log"

    @property
    def haproxy_program(self) -> Path:
        return self.run / "haproxy"

    @property
    def ray(self) -> Path:
        """Ray's sessions."""
        return self.temp / "ray"

    @property
    def haproxy(self) -> Path:
        return self.temp / "haproxy"

    def create(self) -> None:
        """Make both directories. TealError if the temporary one belongs to somebody else."""
        self.run.mkdir(parents=True, exist_ok=True)
        try:
            self.temp.mkdir(mode=0o700)
        except FileExistsError:
            check_private(self.temp)
        except OSError as error:
            raise ConfigError(
                f"cannot make {self.temp}: {error.strerror}; set cluster.temp_root to a directory you may write to"
            ) from error
        self.temp.chmod(0o700)


def check_private(directory: Path) -> None:
    """TealError unless `directory` is a real directory of this user: anybody may have made it below /tmp."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise TealError(
            f"{directory} is not a directory of user {os.getuid()} (it belongs to {status.st_uid}); "
            "remove it or set cluster.temp_root to another directory"
        )
