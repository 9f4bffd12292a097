"""The edge's certificate: the configured one, or one for development that signs itself. HAProxy reads a copy.

A copy's name is the hash of its content, so another certificate is another configuration, and that is a reload.
"""

import hashlib
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runtime.config.serving import EdgeConfig
from runtime.core.errors import ConfigError, TealError
from runtime.core.files import write_atomic
from runtime.serving.edge_files import EdgeFiles

VALID_DAYS = 365
RENEW_DAYS = 30
"""One for development is made anew when it has fewer days left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateFacts:
    path: str
    subject: str
    not_after: datetime
    sha256: str
    """Fingerprint."""
    signs_itself: bool

    def days_left(self, now: datetime) -> float:
        return (self.not_after - now) / timedelta(days=1)


class Certificates:
    """What the edge shows to clients, looked at as often as somebody asks. Files that did not change cost a stat."""

    def __init__(self, edge: EdgeConfig, files: EdgeFiles) -> None:
        self._edge = edge
        self._files = files
        self._seen: tuple[tuple[int, int], ...] = ()
        self._path: Path | None = None
        self.error: str | None = None
        """Why the newest files are not used; the ones from before are."""

    def current(self) -> str | None:
        """Path of the PEM file for HAProxy, None without TLS. TealError if there is no usable one."""
        if not self._edge.tls:
            return None
        try:
            sources = certificate_sources(self._edge, self._files)
            seen = tuple((status.st_mtime_ns, status.st_ino) for status in map(Path.stat, sources))
            if seen != self._seen:
                self._path = _install(sources, self._files)
                self._seen = seen
            self.error = None
        except (OSError, TealError) as error:
            if self._path is None:
                raise TealError(f"the edge has no certificate: {error}") from error
            self.error = str(error)
        return str(self._path)


def certificate_sources(edge: EdgeConfig, files: EdgeFiles) -> list[Path]:
    """The files with certificate and key; for development they are made where there are none. ConfigError names one
    that is missing."""
    if edge.certificate is None:
        return [ensure_development_certificate(files, [edge.host] if edge.host else [])]
    paths = [Path(edge.certificate)] + ([Path(edge.private_key)] if edge.private_key else [])
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"there is no file {path}; set edge.certificate and edge.private_key")
    return paths


def _install(sources: list[Path], files: EdgeFiles) -> Path:
    """Copy the PEMs into one file, once they are known to be a pair. TealError if they are not."""
    content = b"\n".join(path.read_bytes().strip() for path in sources) + b"\n"
    path = files.tls / f"edge-{hashlib.sha256(content).hexdigest()[:16]}.pem"
    if not path.exists():
        files.tls.mkdir(mode=0o700, parents=True, exist_ok=True)
        candidate = files.tls / "candidate.pem"
        write_atomic(candidate, content, mode=0o600)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(candidate, password=lambda: b"")
        except (ssl.SSLError, ValueError) as error:
            candidate.unlink()
            names = " and ".join(map(str, sources))
            raise ConfigError(
                f"{names}: not a certificate with its own key, unencrypted, in PEM form ({error})"
            ) from error
        os.replace(candidate, path)
    for old in sorted(files.tls.glob("edge-*.pem"), key=lambda old: old.stat().st_mtime)[:-2]:
        if old != path:
            old.unlink(missing_ok=True)
    return path


# -- a certificate for development ---------------------------------------------------------------------------------


def ensure_development_certificate(files: EdgeFiles, hosts: list[str]) -> Path:
    """PEM file (mode 0600) with key and certificate for this machine's names, made where there is no valid one.

    `development.crt` beside it is the certificate alone, for clients to trust.
    """
    path = files.tls / "development.pem"
    names = _local_names(hosts)
    if path.exists():
        facts = read_certificate(path)
        if facts.days_left(datetime.now(UTC)) > RENEW_DAYS and facts.subject == _subject(names):
            return path
    key, certificate = _make_with_cryptography(names) or _make_with_openssl(names)
    files.tls.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(files.tls / "development.crt", certificate)
    write_atomic(path, key + certificate, mode=0o600)
    return path


def _local_names(hosts: list[str]) -> list[str]:
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts]
    return [name for name in dict.fromkeys(names) if name not in ("0.0.0.0", "::")]


def _subject(names: list[str]) -> str:
    """Names the certificate's hosts by their hash, so that other hosts are another certificate."""
    return f"teal development {hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _make_with_cryptography(names: list[str]) -> tuple[bytes, bytes] | None:
    """Key and certificate, None if `cryptography` is not installed."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError:
        return None
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _subject(names))])
    alternatives = [
        x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name) for name in names
    ]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain),
        certificate.public_bytes(pem),
    )


def _make_with_openssl(names: list[str]) -> tuple[bytes, bytes]:
    kinds = [f"IP:{name}" if _is_address(name) else f"DNS:{name}" for name in names]
    with tempfile.TemporaryDirectory() as directory:
        key, certificate = Path(directory) / "key.pem", Path(directory) / "certificate.pem"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", str(VALID_DAYS), "-subj", f"/CN={_subject(names)}", "-keyout", str(key)),
            *("-out", str(certificate), "-addext", f"subjectAltName={','.join(kinds)}"),
        )
        return key.read_bytes(), certificate.read_bytes()


# -- reading ---------------------------------------------------------------------------------------------------------


def read_certificate(path: Path) -> CertificateFacts:
    """What the first certificate in a PEM file says. ConfigError if there is none."""
    try:
        text = path.read_text()
        start, end = text.index("-----BEGIN CERTIFICATE-----"), text.index("-----END CERTIFICATE-----")
        der = ssl.PEM_cert_to_DER_cert(text[start:end] + "-----END CERTIFICATE-----\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no certificate in PEM form: {error}") from error
    subject, issuer, not_after = _read_with_cryptography(der) or _read_with_openssl(der)
    return CertificateFacts(
        path=str(path),
        subject=subject,
        not_after=not_after,
        sha256=hashlib.sha256(der).hexdigest(),
        signs_itself=subject == issuer,
    )


def _read_with_cryptography(der: bytes) -> tuple[str, str, datetime] | None:
    try:
        from cryptography import x509
        from cryptography.x509.oid import NameOID
    except ImportError:
        return None
    certificate = x509.load_der_x509_certificate(der)

    def name(of: x509.Name) -> str:
        common = of.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(common[0].value) if common else of.rfc4514_string()

    return name(certificate.subject), name(certificate.issuer), certificate.not_valid_after_utc


def _read_with_openssl(der: bytes) -> tuple[str, str, datetime]:
    output = _openssl(
        *("x509", "-inform", "der", "-noout", "-subject", "-issuer", "-enddate", "-nameopt", "multiline,-align"),
        given=der,
    )
    names = [line.partition("=")[2].strip() for line in output.splitlines() if "commonName" in line]
    end = next(line.partition("=")[2] for line in output.splitlines() if line.startswith("notAfter="))
    not_after = datetime.strptime(end, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    return names[0] if names else "", names[-1] if names else "", not_after


def _openssl(*arguments: str, given: bytes = b"") -> str:
    program = shutil.which("openssl")
    if program is None:
        raise TealError(
            "certificates need the package cryptography or the program openssl; run `pip install cryptography`"
        )
    result = subprocess.run([program, *arguments], input=given, capture_output=True, check=False, timeout=30)
    if result.returncode:
        raise TealError(f"openssl {arguments[0]} failed: {result.stderr.decode(errors='replace').strip()[-300:]}")
    return result.stdout.decode(errors="replace")
