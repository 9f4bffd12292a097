"""The base URL that a client was given, taken apart and checked."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from runtime.core.errors import UsageError

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    scheme: str
    host: str
    port: int
    path: str
    """What stands before every path of teal: empty, or with a slash at its start and none at its end."""

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_origin(url: str) -> Origin:
    """UsageError says what is wrong with the URL, without repeating a password in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"the base URL cannot be read: {error}; give one like 'http://127.0.0.1:8080'") from None
    if parts.username is not None or parts.password is not None:
        raise UsageError("the base URL must not hold a user name or password; pass the token as token=...")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise UsageError(f"the base URL must look like 'http://127.0.0.1:8080' but got {url!r}")
    if parts.query or parts.fragment:
        raise UsageError(f"the base URL must end with its path but got {url!r}")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"the base URL must be printable ASCII without spaces but got {url!r}")
    return Origin(
        scheme=parts.scheme,
        host=parts.hostname,
        port=DEFAULT_PORTS[parts.scheme] if port is None else port,
        path=parts.path.rstrip("/"),
    )


def build_ssl_context(origin: Origin, ca_file: str | Path | None) -> ssl.SSLContext | None:
    """What checks the server's certificate: the system's authorities, or only those in `ca_file`. None for http."""
    if origin.scheme == "http":
        if ca_file is not None:
            raise UsageError(f"ca_file is for https but the base URL is {origin}")
        return None
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise UsageError(f"ca_file {str(ca_file)!r} holds no certificate that can be read: {error}") from error
