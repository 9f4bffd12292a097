"""Build the peers' environments under `.bench/`, pinned by the lists beside this file. One that is whole is kept."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".bench"
PEERS = ("mlserver", "litserve", "bentoml")


def main() -> int:
    for name in PEERS:
        if is_installed(name):
            print(f"{name}: {environment(name)} is as pinned")
            continue
        print(f"{name}: installing into {environment(name)}", flush=True)
        try:
            install(name)
        except subprocess.CalledProcessError as error:
            print(f"{name}: {' '.join(map(str, error.cmd))} failed with {error.returncode}", file=sys.stderr)
            return 1
    return 0


def environment(name: str) -> Path:
    return ENVIRONMENTS / name


def is_installed(name: str) -> bool:
    """Whether the environment was built, to the end, from what is pinned now and by this Python."""
    stamp = environment(name) / ".installed"
    return stamp.is_file() and stamp.read_text() == _identity(name)


def install(name: str) -> None:
    directory, pins = environment(name), HERE / f"{name}.txt"
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip: list[str | Path] = [
        directory / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    torch = next(line for line in pins.read_text().splitlines() if line.startswith("torch=="))
    # Alone and exactly: a resolver that may choose takes a CUDA build of several GB.
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, "-r", pins], check=True)
    (directory / ".installed").write_text(_identity(name))


def _identity(name: str) -> str:
    pins = (HERE / f"{name}.txt").read_bytes()
    return f"{hashlib.sha256(pins).hexdigest()} {sys.version_info.major}.{sys.version_info.minor}"


if __name__ == "__main__":
    sys.exit(main())
