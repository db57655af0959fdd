"""The keys of bundles: the cloud's certificate, the user's signing key, the bundle secret.

The variables are euca2ools': EUCALYPTUS_CERT names the cloud's certificate, EC2_PRIVATE_KEY the
user's key. EC2_CERT is the user's certificate where EC2_PRIVATE_KEY is set beside it; alone it is
taken for the cloud's, as some clouds' rc files have it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from pipeline.core import settings
from pipeline.core.errors import InputError

_KEY_BITS = 2048  # what Eucalyptus and ec2-api make for themselves
_SECRET_BYTES = 32


def certificate_path(option: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Where the cloud's certificate is: the option, else the environment, else None."""
    if option is not None:
        return option
    if value := environ.get("EUCALYPTUS_CERT"):
        return Path(value)
    if (value := environ.get("EC2_CERT")) and not environ.get("EC2_PRIVATE_KEY"):
        return Path(value)
    return None


_CERTIFICATE = "Name the cloud's own certificate in PEM, with an RSA key"
_KEY = "Name an RSA key in PEM without a passphrase"


def load_public_key(path: Path) -> rsa.RSAPublicKey:
    """The RSA key of a PEM certificate or public key file."""
    data = _read(path)
    try:
        if b"BEGIN PUBLIC KEY" in data:
            key = load_pem_public_key(data)
        else:
            key = x509.load_pem_x509_certificate(data).public_key()
    except ValueError as error:
        raise InputError(
            "read the certificate", path, why=str(error), next_step=_CERTIFICATE
        ) from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise InputError(
            "use the certificate", path, why="its key is not an RSA key", next_step=_CERTIFICATE
        )
    return key


def load_private_key(path: Path) -> rsa.RSAPrivateKey:
    """The RSA key of a PEM file without a passphrase."""
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise InputError("read the private key", path, why=str(error), next_step=_KEY) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise InputError("use the private key", path, why="it is not an RSA key", next_step=_KEY)
    return key


def signing_key(environ: Mapping[str, str] = os.environ) -> rsa.RSAPrivateKey:
    """The user's key: EC2_PRIVATE_KEY, else one of our own, made on first use."""
    if value := environ.get("EC2_PRIVATE_KEY"):
        return load_private_key(Path(value))
    path = settings.config_dir() / "ec2-signing-key.pem"
    _make_once(path, _new_key)
    return load_private_key(path)


def bundle_secret() -> bytes:
    """The secret that bundle keys are derived from, made on first use.

    It guards what the signing key guards anyway: that key opens every bundle of this user.
    """
    path = settings.config_dir() / "bundle-secret"
    _make_once(path, lambda: secrets.token_bytes(_SECRET_BYTES))
    secret = _read(path)
    if len(secret) != _SECRET_BYTES:
        raise InputError(
            "use the bundle secret",
            path,
            why=f"it is {len(secret)} bytes and not {_SECRET_BYTES}",
            next_step="Delete it: a new one is made, and unfinished uploads start again",
        )
    return secret


def _new_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _make_once(path: Path, make: Callable[[], bytes]) -> None:
    """Write a private file unless it exists; of several processes at once, the first one wins."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        # link(2), unlike rename(2), fails when somebody else was first.
        if not path.exists():
            _link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _link(partial: Path, path: Path) -> None:
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        return


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("read", path, why=error.strerror or str(error)) from error
