"""`bundle.json`: what a bundle is, without its weights. Reading it imports no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.core.errors import ContractError, NotFoundError
from runtime.core.hashing import sha256_file

FORMAT = 1
MANIFEST_FILE = "bundle.json"
WEIGHTS_FILE = "model.safetensors"
PROFILE_FILE = "profile.json"
HASHED_FILES = (WEIGHTS_FILE, PROFILE_FILE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Plain JSON values; the order of the contract is the order of the model's inputs."""

    format: int
    name: str
    """The model family."""
    class_path: str
    arguments: dict[str, Any]
    allowed_modules: list[str]
    """Packages that the trainer allowed; the reader decides whether to follow."""
    contract: Any
    encoding: Any
    lineage: dict[str, Any]
    files: dict[str, str]
    """File name to hex sha256."""


def read_manifest(directory: Path) -> Manifest:
    """The manifest alone; it says nothing of whether the other files keep it."""
    path = directory / MANIFEST_FILE
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise NotFoundError(f"no bundle at {directory}: {MANIFEST_FILE} is missing") from None
    except ValueError as error:
        raise ContractError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise ContractError(f"{path} must have format {FORMAT} but has {found!r}")
    try:
        manifest = Manifest(**values)
    except TypeError as error:
        raise ContractError(f"{path} is not a manifest: {error}") from error
    if set(manifest.files) != set(HASHED_FILES):
        raise ContractError(f"{path} must name the files {sorted(HASHED_FILES)} but names {sorted(manifest.files)}")
    return manifest


def manifest_sha256(directory: Path) -> str:
    """Hex sha256 of `bundle.json`: the bundle's identity."""
    path = directory / MANIFEST_FILE
    if not path.is_file():
        raise NotFoundError(f"no bundle at {directory}: {MANIFEST_FILE} is missing")
    return sha256_file(path)
