"""The references that bundles hold, by the model version that the control store knows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.core.errors import ContractError, NotFoundError, TealError
from runtime.data.profile import Profile
from runtime.models.manifest import PROFILE_FILE, read_manifest
from runtime.monitoring.training_hours import HourCounts
from runtime.store.control import ControlStore


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
            return dict(read_manifest(self._bundle(model_version)).encoding["vocabularies"])
        except (OSError, TealError, KeyError, TypeError):
            return {}

    def training_hours(self, model_version: str, profile: Profile) -> HourCounts:
        """The rows that the version was trained on, by hour of the week, from the table that its bundle names."""
        from runtime.monitoring.training_rows import read_training_hours  # brings the table's library: few need it

        return read_training_hours(read_manifest(self._bundle(model_version)), profile)

    def _bundle(self, model_version: str) -> Path:
        name, _, version = model_version.rpartition(":")
        if not name or not version.isdigit():
            raise ContractError(f"model version {model_version!r} must look like 'name:3'")
        return Path(self._store.model_version(name, int(version)).bundle_uri.removeprefix("file://"))
