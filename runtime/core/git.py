"""Which code is running: the commit, and a hash of what was changed since."""

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeVersion:
    commit: str
    """Commit hash, or "unknown" outside a checkout."""
    diff_sha256: str
    """Hash of the uncommitted change, empty when there is none."""


def read_code_version(directory: Path) -> CodeVersion:
    """The commit and the uncommitted diff of the checkout that holds `directory`."""

    def git(*arguments: str) -> bytes | None:
        try:
            run = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, check=False)
        except FileNotFoundError:
            return None
        return run.stdout if run.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return CodeVersion(commit="unknown", diff_sha256="")
    diff = git("diff", "HEAD", "--no-ext-diff", "--binary") or b""
    return CodeVersion(commit=commit.decode().strip(), diff_sha256=hashlib.sha256(diff).hexdigest() if diff else "")
