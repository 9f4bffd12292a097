"""The references that bundles hold, by the model version that the control store knows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.core.errors import ContractError, NotFoundError
from runtime.data.profile import Profile
from runtime.store.control import ControlStore

PROFILE_FILE = "profile.json"  # named again, since the bundle's own module imports torch
MANIFEST_FILE = "bundle.json"


class StoreProfiles:
    """Reads the profile of a model version, `name:version`, from the bundle that the control store names."""

    def __init__(self, store: ControlStore) -> None:
        self._store = store

    def __call__(self, model_version: str) -> Profile:
        path = self._bundle(model_version) / PROFILE_FILE
        try:
            return Profile.from_json(json.loads(path.read_bytes()))
        except FileNotFoundError as error:
            raise NotFoundError(f"no profile of {model_version} at {path}") from error
        except ValueError as error:
            raise ContractError(f"the profile of {model_version} at {path} is not JSON: {error}") from error

    def vocabularies(self, model_version: str) -> Mapping[str, Sequence[str]]:
        """Category to its values, as a report names them; empty where the bundle does not say."""
        try:
            encoding = json.loads((self._bundle(model_version) / MANIFEST_FILE).read_bytes())["encoding"]
            return dict(encoding["vocabularies"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _bundle(self, model_version: str) -> Path:
        name, _, version = model_version.rpartition(":")
        if not name or not version.isdigit():
            raise ContractError(f"model version {model_version!r} must look like 'name:3'")
        return Path(self._store.model_version(name, int(version)).bundle_uri.removeprefix("file://"))
