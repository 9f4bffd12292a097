"""What every group of the configuration has in common."""

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""No key that is not known, no number that is none."""
