"""A trained model as a directory: weights in safetensors, everything else in JSON, every file under a hash.

Nothing in it is code: the net's class is an import path that the reader must allow. No pickle.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime.config.schema import ColumnConfig, ModelConfig
from runtime.core.errors import ConfigError, NotFoundError, RefusedError, TealError
from runtime.core.files import write_atomic
from runtime.core.hashing import canonical_json, sha256_file
from runtime.data.contract import contract_from_json, contract_to_json
from runtime.data.encoding import Encoding
from runtime.data.profile import Profile
from runtime.models.manifest import (
    FORMAT,
    HASHED_FILES,
    MANIFEST_FILE,
    PROFILE_FILE,
    WEIGHTS_FILE,
    Manifest,
    manifest_sha256,
    read_manifest,
)
from runtime.models.tabular import TabularModel, build_model

__all__ = ["OWN_MODULES", "Bundle", "Manifest", "load_bundle", "manifest_sha256", "read_manifest", "save_bundle"]

OWN_MODULES = ("runtime.models",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    model: TabularModel
    manifest: Manifest
    columns: dict[str, ColumnConfig]
    encoding: Encoding
    profile: Profile


def save_bundle(
    directory: Path,
    *,
    model: TabularModel,
    model_config: ModelConfig,
    columns: Mapping[str, ColumnConfig],
    encoding: Encoding,
    profile: Profile,
    lineage: Mapping[str, Any],
) -> Manifest:
    """Write the bundle whole or not at all. RefusedError if `directory` holds another bundle; the same one is kept."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        temporary.chmod(0o755)
        save_file(_weights(model), temporary / WEIGHTS_FILE)
        _flush(temporary / WEIGHTS_FILE)
        write_atomic(temporary / PROFILE_FILE, canonical_json(profile.to_json()))
        manifest = Manifest(
            format=FORMAT,
            name=model_config.name,
            class_path=model_config.class_path,
            arguments=dict(model_config.arguments),
            allowed_modules=list(model_config.allowed_modules),
            contract=contract_to_json(dict(columns)),
            encoding=encoding.to_json(),
            lineage=dict(lineage),
            files={name: sha256_file(temporary / name) for name in HASHED_FILES},
        )
        write_atomic(temporary / MANIFEST_FILE, json.dumps(asdict(manifest), indent=1, allow_nan=False))
        _move(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def load_bundle(
    directory: Path, *, allowed_modules: Sequence[str] | None = None, expected_sha256: str | None = None
) -> Bundle:
    """The bundle with its model in evaluation mode on the CPU, after every hash was checked.

    `expected_sha256` is what the registry says of the manifest. The net's class must lie within `allowed_modules`;
    without them, within the manifest's own list if the registry vouches for it, else within teal's.
    Raises RefusedError where a hash differs, ConfigError where the class is not allowed or does not fit the weights.
    """
    if expected_sha256 is not None and manifest_sha256(directory) != expected_sha256:
        raise RefusedError(
            f"bundle {directory} is not the one that was registered: {MANIFEST_FILE} has sha256 "
            f"{manifest_sha256(directory)}, registered is {expected_sha256}"
        )
    manifest = read_manifest(directory)
    for name in HASHED_FILES:
        path = directory / name
        if not path.is_file():
            raise NotFoundError(f"bundle {directory} lacks {name}")
        if (found := sha256_file(path)) != manifest.files[name]:
            raise RefusedError(
                f"{name} of bundle {directory} was changed: sha256 is {found}, the manifest says {manifest.files[name]}"
            )
    if allowed_modules is None:
        allowed_modules = OWN_MODULES if expected_sha256 is None else (*OWN_MODULES, *manifest.allowed_modules)
    columns = contract_from_json(manifest.contract)
    encoding = Encoding.from_json(manifest.encoding)
    config = ModelConfig(name=manifest.name, class_path=manifest.class_path, arguments=manifest.arguments)
    model = build_model(config, columns, encoding, allowed_modules=allowed_modules)
    try:
        model.load_state_dict(load_file(directory / WEIGHTS_FILE))
    except (RuntimeError, SafetensorError) as error:
        raise ConfigError(f"the weights of bundle {directory} do not fit {manifest.class_path!r}: {error}") from error
    profile = Profile.from_json(json.loads((directory / PROFILE_FILE).read_text()))
    return Bundle(model=model.eval(), manifest=manifest, columns=columns, encoding=encoding, profile=profile)


def _weights(model: TabularModel) -> dict[str, Tensor]:
    weights = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ConfigError(f"state {name!r} of the model is a {type(value).__name__}; a bundle holds tensors only")
        # safetensors refuses tensors that share memory, as tied weights do.
        weights[name] = value.detach().cpu().contiguous().clone()
    return weights


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _move(temporary: Path, directory: Path) -> None:
    try:
        temporary.rename(directory)
    except OSError as error:
        if not directory.is_dir():
            raise TealError(f"cannot write bundle {directory}: {error}") from error
        if not (directory / MANIFEST_FILE).is_file() or manifest_sha256(directory) != manifest_sha256(temporary):
            raise RefusedError(f"{directory} already holds something else; bundles are never overwritten") from error
