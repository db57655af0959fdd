"""What a cloud does with a bundle, written from the format's description and not from the product.

As OpenStack's old Nova did it (decrypt the keys, `openssl enc -d`, untar), and with every check
that the format allows: order of elements, counts, digests, sizes, signature.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

_MACHINE_ORDER = [
    "architecture", "block_device_mapping", "product_codes", "kernel_id", "ramdisk_id",
]  # fmt: skip
_IMAGE_ORDER = [
    "name", "user", "type", "digest", "size", "bundled_size", "ec2_encrypted_key",
    "user_encrypted_key", "ec2_encrypted_iv", "user_encrypted_iv", "parts",
]  # fmt: skip
_PART = 10 * 1024 * 1024


class BadBundleError(Exception):
    """Why a bundle is refused."""


@dataclass(frozen=True)
class Opened:
    """A bundle's image and what its manifest says of it."""

    data: bytes
    kind: str
    architecture: str
    kernel_id: str
    ramdisk_id: str


def open_bundle(
    document: bytes,
    fetch: Callable[[str], bytes],
    cloud_key: RSAPrivateKey,
    user_key: RSAPublicKey,
) -> Opened:
    """Decode a bundle as its cloud; BadBundleError for whatever is not exactly right."""
    root = ElementTree.fromstring(document)
    _check([e.tag for e in root], ["version", "bundler", "machine_configuration", "image",
                                   "signature"], "manifest")  # fmt: skip
    machine, image = root[2], root[3]
    tags = [e.tag for e in machine]
    _check(tags, [tag for tag in _MACHINE_ORDER if tag in tags], "machine_configuration")
    _check([e.tag for e in image], _IMAGE_ORDER, "image")
    signed = (
        document[document.index(b"<machine_configuration>") :].partition(b"</image>")[0]
        + b"</image>"
    )
    try:
        user_key.verify(bytes.fromhex(root[4].text or ""), signed, PKCS1v15(), hashes.SHA1())
    except InvalidSignature:
        raise BadBundleError("the signature is wrong") from None
    encrypted = _parts(image, fetch)
    key, iv = (
        bytes.fromhex(cloud_key.decrypt(bytes.fromhex(_text(image, tag)), PKCS1v15()).decode())
        for tag in ("ec2_encrypted_key", "ec2_encrypted_iv")
    )
    decryptor = Cipher(AES(key), CBC(iv)).decryptor()
    unpadder = PKCS7(128).unpadder()
    plain = unpadder.update(decryptor.update(encrypted) + decryptor.finalize())
    plain += unpadder.finalize()
    data = _untar(plain, image)
    return Opened(
        data,
        _text(image, "type"),
        _text(machine, "architecture"),
        machine.findtext("kernel_id") or "",
        machine.findtext("ramdisk_id") or "",
    )


def _parts(image: ElementTree.Element, fetch: Callable[[str], bytes]) -> bytes:
    parts = image[-1]
    _check(int(parts.get("count", -1)), len(parts), "count of parts")
    pieces = []
    for number, part in enumerate(parts):
        _check(part.get("index"), str(number), "index of a part")
        data = fetch(_text(part, "filename"))
        _check(hashlib.sha1(data).hexdigest(), _text(part, "digest"), f"digest of part {number}")
        full = number < len(parts) - 1
        _check(len(data) == _PART if full else 0 < len(data) <= _PART, True, f"size of {number}")
        pieces.append(data)
    whole = b"".join(pieces)
    _check(str(len(whole)), _text(image, "bundled_size"), "bundled_size")
    return whole


def _untar(plain: bytes, image: ElementTree.Element) -> bytes:
    # "r|gz" is how ec2-api reads it: a stream reader that stops after the first gzip member.
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r|gz") as tar:
        member = tar.next()
        content = tar.extractfile(member) if member else None
        if member is None or content is None:
            raise BadBundleError("the archive holds no file")
        data = content.read()
        _check(tar.next(), None, "second member")
    _check(hashlib.sha1(gzip.decompress(plain)).hexdigest(), _text(image, "digest"), "digest")
    _check(str(len(data)), _text(image, "size"), "size")
    return data


def _text(element: ElementTree.Element, tag: str) -> str:
    text = element.findtext(tag)
    if not text:
        raise BadBundleError(f"{tag} is missing or empty")
    return text


def _check(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise BadBundleError(f"{what}: found {found!r}, wanted {wanted!r}")
