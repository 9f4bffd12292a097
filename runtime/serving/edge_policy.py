"""Who may do what at the edge: the store's grants, as the entries of a map that HAProxy looks up. Pure.

The key of an entry is the hash of a whole token. Comparing hashes needs no constant time: whoever measures how far a
lookup came learns a prefix of a hash, and still has to find 256 random bits that hash to it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runtime.store.principals import ANONYMOUS, Grant, Role

NOTHING = "none"
PERMISSIONS: dict[Role, tuple[str, ...]] = {
    "predict": ("predict",),
    "feedback": ("feedback",),
    "operator": ("predict", "feedback", "slot", "metrics"),
    "admin": ("predict", "feedback", "slot", "metrics"),
}
"""`slot`: may choose the slot with `x-slot`. `metrics`: may read the edge's from another machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EdgePolicy:
    """What holds at an edge now. Without `require_token` nobody needs one, and then nobody is also somebody."""

    grants: tuple[Grant, ...] = ()
    require_token: bool = False
    anonymous_rate: int = 0

    def entries(self, now: str) -> dict[str, str]:
        """The map: token hash to `principal:rate:rights everywhere`, and hash/endpoint to the rights there.

        `now`: ISO 8601 in UTC; a token that has expired by then is left out. Rate 0 is no limit.
        """
        entries = {}
        if not self.require_token:
            entries[ANONYMOUS] = f"{ANONYMOUS}:{self.anonymous_rate}:{render_rights(['predict', 'feedback'])}"
        for grant in self.grants:
            if grant.expires_at is not None and grant.expires_at <= now:
                continue
            rights = render_rights(grant.roles)
            everywhere = rights if grant.endpoints is None or "admin" in grant.roles else NOTHING
            entries[grant.token_sha256] = f"{grant.principal}:{grant.rate or 0}:{everywhere}"
            if everywhere == NOTHING:
                entries |= {f"{grant.token_sha256}/{endpoint}": rights for endpoint in grant.endpoints or ()}
        return entries


def render_rights(roles: Iterable[Role]) -> str:
    """`,predict,slot,`: each right between commas, so that a search for `,slot,` finds the whole word only."""
    rights = {right for role in roles for right in PERMISSIONS[role]}
    return f",{','.join(sorted(rights))}," if rights else NOTHING


def render_map(entries: Mapping[str, str]) -> str:
    """A map file's content."""
    return "".join(f"{key} {value}\n" for key, value in sorted(entries.items()))


def parse_map(content: str) -> dict[str, str]:
    """The entries of a map file's content."""
    return dict(line.split(" ", 1) for line in content.splitlines() if line)
