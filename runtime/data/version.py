"""A recorded data version's reference: its encoding and profile, as `prepare` left them."""

import json
from pathlib import Path

from runtime.core.errors import ContractError
from runtime.core.hashing import sha256_file
from runtime.data.encoding import Encoding
from runtime.data.profile import Profile
from runtime.store.records import DataVersion


def load_reference(version: DataVersion) -> tuple[Encoding, Profile]:
    """ContractError if the file is gone or was changed since."""
    named = version.lineage["profile"]
    path = Path(version.uri) / named["path"]
    if not path.is_file():
        raise ContractError(f"the profile of {version.label} is gone: no file {str(path)!r}; prepare the data again")
    if sha256_file(path) != named["sha256"]:
        raise ContractError(f"the profile of {version.label} was changed after it was written: {str(path)!r}")
    content = json.loads(path.read_bytes())
    return Encoding.from_json(content["encoding"]), Profile.from_json(content["profile"])
