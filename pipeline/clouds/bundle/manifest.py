"""A bundle's manifest, version 2007-10-10: element order, sealed keys and signature.

Sources: the manifests of AWS's AMI tools and of eucalyptus/euca2ools (bundle/manifest.py); readers
are Eucalyptus's ImageManifests.java and OpenStack's ec2-api. The order of elements is fixed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import pipeline
from pipeline.core.errors import CloudError
from pipeline.core.image import Role

VERSION = "2007-10-10"
LARGEST_MANIFEST = 5 << 20  # bytes; what Eucalyptus reads at most
ARCHITECTURES = ("i386", "x86_64", "aarch64", "armhf", "ppc", "ppc64", "ppc64le")
_CIPHER = "AES-128-CBC"
_HEX_KEY = re.compile(rb"[0-9a-fA-F]{32}")


@dataclass(frozen=True)
class BundleKeys:
    """An AES-128 key and the first block's initialisation vector, 16 bytes each.

    label: tells bundles of different keys apart in the names of their parts; no secret.
    """

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    label: str = ""

    @classmethod
    def random(cls) -> BundleKeys:
        """Keys for a bundle that is never made again."""
        return cls(secrets.token_bytes(16), secrets.token_bytes(16), secrets.token_hex(4))

    @classmethod
    def derived(cls, secret: bytes, *identity: str) -> BundleKeys:
        """Keys that only the holder of `secret` can make, the same for the same identity.

        A repeated bundle then has the same parts, so an interrupted upload goes on where it
        stopped. HKDF (RFC 5869) keeps keys of different identities independent; `identity` must
        name everything that decides the archive's bytes, since two archives under one key and
        vector would show how long a beginning they share.
        """
        info = "\0".join(("image-pipeline bundle", *identity)).encode()
        made = HKDF(hashes.SHA256(), 36, salt=None, info=info).derive(secret)
        return cls(made[:16], made[16:32], made[32:].hex())


@dataclass(frozen=True)
class Part:
    """One encrypted part. filename: its full key in the bucket. sha1: lower-case hex."""

    filename: str
    sha1: str


@dataclass(frozen=True)
class Sealed:
    """A bundle's keys encrypted for the cloud and for the user, in hex; "" for nobody."""

    ec2_key: str
    ec2_iv: str
    user_key: str = ""
    user_iv: str = ""


@dataclass(frozen=True)
class Sealer:
    """Who may open a bundle and who signs it: the cloud's public key, the user's private one."""

    cloud: RSAPublicKey
    user: RSAPrivateKey

    def seal(self, keys: BundleKeys) -> Sealed:
        """Encrypt the keys for the cloud and the user."""
        mine = self.user.public_key()
        return Sealed(
            _encrypted(self.cloud, keys.key),
            _encrypted(self.cloud, keys.iv),
            _encrypted(mine, keys.key),
            _encrypted(mine, keys.iv),
        )

    def sign(self, data: bytes) -> str:
        """RSA PKCS #1 v1.5 signature over SHA-1, in hex."""
        # SHA-1 is the format's, read by every cloud that reads bundles; no other is accepted.
        return self.user.sign(data, PKCS1v15(), hashes.SHA1()).hex()  # noqa: S303


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    name: the tar member's and the bundle's. user: account number. digest: SHA-1 of the tar
    stream, hex. size: bytes of the raw image. bundled_size: bytes of all parts.
    kernel_id and ramdisk_id: "" for none, "true" for an image that is itself a kernel or ramdisk.
    mappings: (virtual name, device) pairs of a block device mapping.
    """

    name: str
    user: str
    kind: Role
    architecture: str
    digest: str
    size: int
    bundled_size: int
    sealed: Sealed
    parts: tuple[Part, ...]
    kernel_id: str = ""
    ramdisk_id: str = ""
    mappings: Sequence[tuple[str, str]] = ()
    product_codes: Sequence[str] = ()

    def xml(self, sealer: Sealer) -> bytes:
        """The signed document."""
        configuration, image = self._configuration(), self._image()
        bundler = _element(
            "bundler",
            _text("name", "image-pipeline")
            + _text("version", pipeline.__version__)
            + _text("release", "0"),
        )
        signature = sealer.sign((configuration + image).encode())
        document = _element(
            "manifest",
            _text("version", VERSION)
            + bundler
            + configuration
            + image
            + _text("signature", signature),
        )
        return ('<?xml version="1.0" encoding="UTF-8"?>' + document).encode()

    def _configuration(self) -> str:
        mapping = "".join(
            _element("mapping", _text("virtual", virtual) + _text("device", device))
            for virtual, device in self.mappings
        )
        codes = "".join(_text("product_code", code) for code in self.product_codes)
        return _element(
            "machine_configuration",
            _text("architecture", self.architecture)
            + (_element("block_device_mapping", mapping) if mapping else "")
            + (_element("product_codes", codes) if codes else "")
            + (_text("kernel_id", self.kernel_id) if self.kernel_id else "")
            + (_text("ramdisk_id", self.ramdisk_id) if self.ramdisk_id else ""),
        )

    def _image(self) -> str:
        sealed, cipher = self.sealed, f' algorithm="{_CIPHER}"'
        sha1 = ' algorithm="SHA1"'
        parts = "".join(
            _element(
                "part",
                _text("filename", part.filename) + _text("digest", part.sha1, sha1),
                f' index="{index}"',
            )
            for index, part in enumerate(self.parts)
        )
        return _element(
            "image",
            _text("name", self.name)
            + _text("user", self.user)
            + _text("type", str(self.kind))
            + _text("digest", self.digest, sha1)
            + _text("size", str(self.size))
            + _text("bundled_size", str(self.bundled_size))
            + _text("ec2_encrypted_key", sealed.ec2_key, cipher)
            + _text("user_encrypted_key", sealed.user_key, cipher)
            + _text("ec2_encrypted_iv", sealed.ec2_iv)
            + _text("user_encrypted_iv", sealed.user_iv)
            + _element("parts", parts, f' count="{len(self.parts)}"'),
        )


def parse(document: bytes) -> Manifest:
    """Read a manifest, this pipeline's or another tool's. CloudError says what is missing."""
    try:
        return _parsed(document)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise CloudError("read the bundle manifest", why=str(error)) from error


def verify(document: bytes, signer: RSAPublicKey) -> None:
    """CloudError unless the manifest's signature is the signer's."""
    match = re.search(
        rb"(<machine_configuration>.*</machine_configuration>)\s*(<image>.*</image>)"
        rb".*<signature>\s*([0-9a-fA-F]+)\s*</signature>",
        document,
        re.DOTALL,
    )
    if match is None:
        raise CloudError(
            "verify the bundle manifest",
            why="it is not signed",
            next_step="Name the .manifest.xml that the bundle's maker wrote",
        )
    try:
        signature = bytes.fromhex(match[3].decode())
        signer.verify(signature, match[1] + match[2], PKCS1v15(), hashes.SHA1())  # noqa: S303
    except (InvalidSignature, ValueError) as error:
        raise CloudError(
            "verify the bundle manifest",
            why="its signature is not by the given key, or it was changed since",
            next_step="Give the public key of whoever made the bundle, or fetch it again",
        ) from error


def unseal(sealed: Sealed, private: RSAPrivateKey) -> BundleKeys:
    """The bundle's keys, with the cloud's private key or the user's; CloudError with any other."""
    for key, iv in ((sealed.user_key, sealed.user_iv), (sealed.ec2_key, sealed.ec2_iv)):
        try:
            plain = [private.decrypt(bytes.fromhex(text), PKCS1v15()) for text in (key, iv)]
        except ValueError:
            continue
        # OpenSSL 3.2 answers a wrong key with random bytes instead of an error.
        if all(_HEX_KEY.fullmatch(text) for text in plain):
            return BundleKeys(bytes.fromhex(plain[0].decode()), bytes.fromhex(plain[1].decode()))
    raise CloudError(
        "open the bundle",
        why="its keys are encrypted for somebody else's key",
        next_step="Give the private key of the user who made it, or the cloud's",
    )


def fingerprint(key: RSAPublicKey) -> str:
    """SHA-256 of a public key's modulus and exponent, hex."""
    numbers = key.public_numbers()
    return hashlib.sha256(f"{numbers.n:x}:{numbers.e:x}".encode()).hexdigest()


def _parsed(document: bytes) -> Manifest:
    if len(document) > LARGEST_MANIFEST or b"<!DOCTYPE" in document:
        raise ValueError("it is too large or declares a document type")
    root = ElementTree.fromstring(document)  # noqa: S314 # bounded and without entities
    if root.tag != "manifest" or _need(root, "version") != VERSION:
        raise ValueError(f"it is no manifest of version {VERSION}")
    parts = tuple(
        Part(_need(part, "filename"), _sha1(_need(part, "digest")))
        for part in root.iterfind("image/parts/part")
    )
    count = _child(root, "image/parts").get("count")
    if not parts or count != str(len(parts)):
        raise ValueError(f"it lists {len(parts)} parts and counts {count}")
    return Manifest(
        name=_need(root, "image/name"),
        user=_need(root, "image/user"),
        kind=_kind(root),
        architecture=_need(root, "machine_configuration/architecture"),
        digest=_sha1(_need(root, "image/digest")),
        size=_count(root, "image/size"),
        bundled_size=_count(root, "image/bundled_size"),
        sealed=Sealed(
            _need(root, "image/ec2_encrypted_key"),
            _need(root, "image/ec2_encrypted_iv"),
            root.findtext("image/user_encrypted_key") or "",
            root.findtext("image/user_encrypted_iv") or "",
        ),
        parts=parts,
        kernel_id=root.findtext("machine_configuration/kernel_id") or "",
        ramdisk_id=root.findtext("machine_configuration/ramdisk_id") or "",
        mappings=tuple(
            (_need(mapping, "virtual"), _need(mapping, "device"))
            for mapping in root.iterfind("machine_configuration/block_device_mapping/mapping")
        ),
        product_codes=tuple(
            code.text or ""
            for code in root.iterfind("machine_configuration/product_codes/product_code")
        ),
    )


def _encrypted(key: RSAPublicKey, secret: bytes) -> str:
    # What is encrypted is the hex text, not the 16 bytes: that is how openssl's -K takes it.
    return key.encrypt(secret.hex().encode(), PKCS1v15()).hex()


def _element(tag: str, content: str, attributes: str = "") -> str:
    return f"<{tag}{attributes}>{content}</{tag}>"


def _text(tag: str, text: str, attributes: str = "") -> str:
    return _element(tag, escape(text), attributes)


def _child(element: ElementTree.Element, path: str) -> ElementTree.Element:
    child = element.find(path)
    if child is None:
        raise ValueError(f"it has no {path}")
    return child


def _need(element: ElementTree.Element, path: str) -> str:
    text = (_child(element, path).text or "").strip()
    if not text:
        raise ValueError(f"its {path} is empty")
    return text


def _count(root: ElementTree.Element, path: str) -> int:
    text = _need(root, path)
    if not re.fullmatch(r"\d{1,15}", text):
        raise ValueError(f"its {path} is {text[:40]!r}, not a number of bytes")
    return int(text)


def _sha1(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{40}", text):
        raise ValueError(f"{text[:60]!r} is no SHA-1 digest")
    return text.lower()


def _kind(root: ElementTree.Element) -> Role:
    # Older tools always wrote type=machine; "true" is the marker all of them share.
    if root.findtext("machine_configuration/kernel_id") == "true":
        return Role.KERNEL
    if root.findtext("machine_configuration/ramdisk_id") == "true":
        return Role.RAMDISK
    return Role(root.findtext("image/type") or "machine")
