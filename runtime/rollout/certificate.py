"""A finished rollout's certificate: its summary, signed, as JSON and as a page. Its hash stands in the audit chain.

The signature says that this installation wrote it (Ed25519; the key is in the run directory with mode 0600). That it
was not written anew since is said by the hash in the chain.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from runtime.config.schema import PathsConfig
from runtime.core.errors import ContractError, NotFoundError, TealError
from runtime.core.files import write_atomic
from runtime.core.hashing import canonical_json, sha256_json
from runtime.rollout.page import render_page
from runtime.rollout.summary import summarise
from runtime.store.rollouts import Rollout, RolloutStore

KEY_FILE = "certificate_key"


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    content: dict[str, Any]
    sha256: str
    signature: str
    """Hex, of the content's canonical JSON."""
    public_key: str
    """Hex."""


def certificate_path(paths: PathsConfig, rollout_id: str) -> Path:
    return Path(paths.artifacts.removeprefix("file://")) / "certificates" / f"{rollout_id}.json"


def write_certificate(store: RolloutStore, paths: PathsConfig, rollout: Rollout) -> str:
    """Write both files and return the content's sha256. Repeating it writes the same."""
    certificate = sign(summarise(store, rollout), _private_key(paths))
    path = certificate_path(paths, rollout.id)
    document = {name: getattr(certificate, name) for name in Certificate.__slots__}
    write_atomic(path, json.dumps(document, indent=1))
    write_atomic(path.with_suffix(".html"), render_page(certificate.content, signature=certificate.signature))
    return certificate.sha256


def sign(content: dict[str, Any], key: Ed25519PrivateKey) -> Certificate:
    return Certificate(
        content=content,
        sha256=sha256_json(content),
        signature=key.sign(canonical_json(content).encode()).hex(),
        public_key=key.public_key().public_bytes_raw().hex(),
    )


def read_certificate(paths: PathsConfig, rollout_id: str) -> Certificate:
    path = certificate_path(paths, rollout_id)
    try:
        return Certificate(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise NotFoundError(
            f"no certificate of rollout {rollout_id!r} at {path}; a rollout has one when it ends"
        ) from None
    except (ValueError, TypeError) as error:
        raise ContractError(f"{path} is no certificate: {error}") from error


def find_faults(certificate: Certificate, store: RolloutStore, paths: PathsConfig) -> list[str]:
    """What is wrong with it, one line a fault; empty if it is what the rollout's end left."""
    faults = []
    if sha256_json(certificate.content) != certificate.sha256:
        faults.append("its content was changed: the hash is another one")
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(certificate.public_key))
        public.verify(bytes.fromhex(certificate.signature), canonical_json(certificate.content).encode())
    except (InvalidSignature, ValueError):
        faults.append("its signature does not belong to its content")
    if certificate.public_key != _private_key(paths).public_key().public_bytes_raw().hex():
        faults.append("it was signed with another key than this installation's")
    rollout_id = str(certificate.content.get("rollout"))
    linked = [
        row.detail["sha256"]
        for row in store.transitions()
        if row.action == "certificate" and row.detail.get("rollout") == rollout_id
    ]
    if certificate.sha256 not in linked:
        faults.append(f"the audit chain holds {'another hash' if linked else 'no hash'} for rollout {rollout_id!r}")
    return faults


def _private_key(paths: PathsConfig) -> Ed25519PrivateKey:
    path = Path(paths.run) / KEY_FILE
    if not path.exists():
        write_atomic(path, Ed25519PrivateKey.generate().private_bytes_raw().hex(), mode=0o600)
    try:
        if path.stat().st_mode & 0o077:
            raise TealError(f"the certificates' key {path} can be read by others; run `chmod 600 {path}`")
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip()))
    except ValueError as error:
        raise TealError(f"{path} is no key: {error}; move it away, and certificates get a new one") from error
