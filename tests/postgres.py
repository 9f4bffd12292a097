"""A PostgreSQL server of the tests' own: in a temporary directory, on a free port, gone afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import create_engine, text

from runtime.cluster.free_ports import free_ports

PASSWORD = "not-to-be-shown"


def find_postgres() -> Path | None:
    """The directory of the server's programs, None where none is installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    program = shutil.which("initdb")
    return Path(program).resolve().parent if program else None


@dataclass
class PostgresServer:
    """`fsync` as a user has it, or off where only the answers matter."""

    programs: Path
    directory: Path
    port: int
    fsync: bool = False
    num_databases: int = field(default=0, init=False)

    def start(self) -> None:
        options = f"-p {self.port} -k {self.directory} -c listen_addresses=127.0.0.1 -c fsync={int(self.fsync)}"
        self._run("pg_ctl", "-D", f"{self.directory}/data", "-l", f"{self.directory}/log", "-o", options, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", f"{self.directory}/data", "-m", "immediate", "-w", "stop")

    def initialise(self) -> None:
        password = self.directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        arguments = ("-U", "teal", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync", "-E", "UTF8")
        self._run("initdb", "-D", f"{self.directory}/data", *arguments)

    def url(self, database: str) -> str:
        return f"postgresql://teal:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """The URL of a new empty database."""
        self.num_databases += 1
        name = f"teal_{self.num_databases}"
        engine = create_engine(self.url("postgres").replace("://", "+psycopg://", 1), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0"))
        engine.dispose()
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        # The server refuses to run as root.
        owner = pwd.getpwuid(self.directory.stat().st_uid)
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            user=owner.pw_uid if os.geteuid() == 0 else None,
            group=owner.pw_gid if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(self.directory)},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{program} ended with {done.returncode}; see {self.directory}/log"


@contextmanager
def postgres_server(*, fsync: bool = False) -> Iterator[PostgresServer]:
    programs = find_postgres()
    assert programs is not None, "there is no PostgreSQL on this machine; ask find_postgres() first"
    directory = Path(tempfile.mkdtemp(prefix="teal-postgres-"))
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(directory, account.pw_uid, account.pw_gid)
    server = PostgresServer(programs=programs, directory=directory, port=free_ports().edge, fsync=fsync)
    try:
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)
