"""Bundles against an independent reader (standins/bundles.py) and against damage."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clouds.bundle import codec as bundle_module
from pipeline.clouds.bundle.archive import PIECE, Compression, spans
from pipeline.clouds.bundle.codec import bundle, part_name, unbundle
from pipeline.clouds.bundle.manifest import (
    BundleKeys,
    Manifest,
    Part,
    Sealed,
    Sealer,
    parse,
    unseal,
    verify,
)
from pipeline.core.errors import CloudError
from pipeline.core.image import Role
from pipeline.disk.blocks.source import RawFile
from tests.fakes.bundles import open_bundle

KEYS = BundleKeys(bytes(range(16)), bytes(range(16, 32)), "label")
_IN_TMP = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def cloud_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


@pytest.fixture(scope="module")
def user_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


@pytest.fixture(scope="module")
def sealer(cloud_key: rsa.RSAPrivateKey, user_key: rsa.RSAPrivateKey) -> Sealer:
    return Sealer(cloud_key.public_key(), user_key)


Bundled = tuple[Manifest, dict[str, bytes]]


def make(
    image: Path,
    sealer: Sealer,
    kind: Role = Role.MACHINE,
    compression: Compression = "fast",
    sha256: str = "",
) -> Bundled:
    parts: dict[str, bytes] = {}

    def sink(index: int, data: bytes) -> None:
        assert index == len(parts)
        parts[part_name("demo", index)] = data

    manifest = bundle(
        image,
        kind,
        name="demo",
        architecture="x86_64",
        user="123456789012",
        sealer=sealer,
        sink=sink,
        keys=KEYS,
        compression=compression,
        sha256=sha256,
    )
    assert [part.filename for part in manifest.parts] == list(parts)
    return manifest, parts


def write(path: Path, *stretches: bytes | int) -> Path:
    """A file of bytes and, where a number stands, holes."""
    with path.open("wb") as file:
        for stretch in stretches:
            if isinstance(stretch, int):
                file.seek(stretch, io.SEEK_CUR)
            else:
                file.write(stretch)
        file.truncate()
    return path


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


SIZES = (0, 1, 511, 512, 513, 8191, 8192, 9216, 10240, PIECE - 1, PIECE, PIECE + 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compression", ["fast", "small"])
def test_an_independent_reader_gets_the_image_back(
    size: int,
    compression: Compression,
    tmp_path: Path,
    sealer: Sealer,
    cloud_key: rsa.RSAPrivateKey,
) -> None:
    data = noise(size)
    manifest, parts = make(write(tmp_path / "i", data), sealer, compression=compression)
    opened = open_bundle(
        manifest.xml(sealer), parts.__getitem__, cloud_key, sealer.user.public_key()
    )
    assert opened.data == data
    assert (opened.kind, opened.architecture) == ("machine", "x86_64")
    assert manifest.size == size
    assert manifest.bundled_size == sum(map(len, parts.values()))


@_IN_TMP
@given(
    stretches=st.lists(
        st.tuples(st.sampled_from(["noise", "zeros", "hole"]), st.integers(0, 2 * PIECE + 2)),
        max_size=5,
    )
)
def test_any_mixture_of_data_zeros_and_holes_comes_back(
    stretches: list[tuple[str, int]],
    tmp_path: Path,
    sealer: Sealer,
) -> None:
    content = [
        noise(size) if kind == "noise" else size if kind == "hole" else bytes(size)
        for kind, size in stretches
    ]
    image = write(tmp_path / "i", *content)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    manifest, parts = make(image, sealer, sha256=digest)
    out = tmp_path / "out"
    unbundle(manifest, KEYS, lambda part: parts[part.filename], out)
    assert out.read_bytes() == image.read_bytes()


@pytest.mark.parametrize("divisor", [1, 2, 4])
def test_an_exact_multiple_of_the_part_size_ends_with_a_full_part(
    divisor: int, tmp_path: Path, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write(tmp_path / "i", noise(3 * PIECE + 77))
    whole = make(image, sealer)[0].bundled_size
    assert whole % divisor == 0  # a bundle is whole AES blocks
    monkeypatch.setattr(bundle_module, "PART_SIZE", whole // divisor)
    manifest, parts = make(image, sealer)
    assert [len(part) for part in parts.values()] == [whole // divisor] * divisor
    out = tmp_path / "out"
    unbundle(manifest, KEYS, lambda part: parts[part.filename], out)
    assert out.read_bytes() == image.read_bytes()


def test_an_empty_last_part_of_other_bundlers_is_read(tmp_path: Path, sealer: Sealer) -> None:
    image = write(tmp_path / "i", noise(5000))
    manifest, parts = make(image, sealer)
    empty = Part("demo.part.01", hashlib.sha1(b"").hexdigest())
    manifest = replace(manifest, parts=(*manifest.parts, empty))
    unbundle(manifest, KEYS, lambda part: parts.get(part.filename, b""), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == image.read_bytes()


def test_several_gzip_members_of_other_bundlers_are_read(tmp_path: Path, sealer: Sealer) -> None:
    data = noise(100_000)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("ä" * 120)  # takes an extended header
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    stream = archive.getvalue()
    members = b"".join(gzip.compress(stream[at : at + 7777]) for at in range(0, len(stream), 7777))
    part = encrypted(members)
    manifest = replace(
        make(write(tmp_path / "i", data), sealer)[0],
        digest=hashlib.sha1(stream).hexdigest(),
        bundled_size=len(part),
        parts=(Part("p", hashlib.sha1(part).hexdigest()),),
    )
    unbundle(manifest, KEYS, lambda _part: part, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


def encrypted(plain: bytes) -> bytes:
    return b"".join(bundle_module._encrypt([plain], KEYS))


def test_the_archive_is_one_gzip_member(tmp_path: Path, sealer: Sealer) -> None:
    """ec2-api reads with tarfile's "r|gz", which stops after the first member."""
    _, parts = make(write(tmp_path / "i", noise(2 * PIECE), 3 * PIECE, b"end"), sealer)
    plain = b"".join(bundle_module._decrypt(parts.values(), KEYS))
    member = zlib.decompressobj(31)
    stream = member.decompress(plain)
    assert member.eof
    assert member.unused_data == b""
    assert len(stream) % tarfile.RECORDSIZE == 0


def test_the_same_image_and_keys_give_the_same_parts(tmp_path: Path, sealer: Sealer) -> None:
    image = write(tmp_path / "i", noise(PIECE), PIECE, noise(5))
    assert make(image, sealer)[1] == make(image, sealer)[1]


def test_holes_are_not_read(
    tmp_path: Path, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write(tmp_path / "i", b"begin", 64 * PIECE, b"end")
    lengths = []
    read = RawFile.read

    def counted(self: RawFile, offset: int, length: int) -> bytes:
        lengths.append(length)
        return read(self, offset, length)

    monkeypatch.setattr(RawFile, "read", counted)
    manifest, _ = make(image, sealer)
    assert manifest.size == image.stat().st_size
    assert sum(lengths) <= 2 * PIECE


def test_spans_cover_a_sparse_image_once_in_order(tmp_path: Path) -> None:
    image = write(tmp_path / "i", b"x", 5 * PIECE, b"y", PIECE // 2, b"z")
    with RawFile(image) as raw:
        found = list(spans(raw))
    at = 0
    for offset, length, _ in found:
        assert offset == at
        at += length
    assert at == image.stat().st_size


def test_an_image_that_is_not_the_one_built_is_refused(tmp_path: Path, sealer: Sealer) -> None:
    with pytest.raises(CloudError, match="sha256"):
        make(write(tmp_path / "i", b"changed"), sealer, sha256="0" * 64)


def test_an_error_of_the_sink_ends_the_work(tmp_path: Path, sealer: Sealer) -> None:
    def sink(index: int, data: bytes) -> None:
        raise CloudError("upload", why="the network is gone")

    with pytest.raises(CloudError, match="the network is gone"):
        bundle(
            write(tmp_path / "i", noise(PIECE)),
            Role.KERNEL,
            name="n",
            architecture="x86_64",
            user="1",
            sealer=sealer,
            sink=sink,
        )


@pytest.mark.parametrize(
    ("kind", "kernel", "ramdisk"),
    [(Role.KERNEL, "true", ""), (Role.RAMDISK, "", "true"), (Role.MACHINE, "", "")],
)
def test_kernel_and_ramdisk_carry_both_markers(
    kind: Role, kernel: str, ramdisk: str, tmp_path: Path, sealer: Sealer
) -> None:
    manifest, _ = make(write(tmp_path / "i", b"x"), sealer, kind)
    assert (manifest.kernel_id, manifest.ramdisk_id) == (kernel, ramdisk)
    document = manifest.xml(sealer).decode()
    assert f"<user>123456789012</user><type>{kind}</type>" in document
    assert parse(document.encode()) == manifest


def manifest_example() -> Manifest:
    return Manifest(
        name="demo",
        user="1",
        kind=Role.MACHINE,
        architecture="x86_64",
        digest="a" * 40,
        size=5,
        bundled_size=16,
        sealed=Sealed("0a", "0b", "0c", "0d"),
        parts=(Part("demo.part.00", "b" * 40),),
        kernel_id="aki-1",
        ramdisk_id="ari-1",
        mappings=(("ami", "sda1"), ("root", "/dev/sda1")),
        product_codes=("A<1>",),
    )


def test_the_manifest_is_as_documented(sealer: Sealer) -> None:
    document = manifest_example().xml(sealer).decode()
    start, _, signature = document.partition("<signature>")
    assert start.partition("<machine_configuration>")[2] == (
        "<architecture>x86_64</architecture><block_device_mapping><mapping><virtual>ami</virtual>"
        "<device>sda1</device></mapping><mapping><virtual>root</virtual><device>/dev/sda1</device>"
        "</mapping></block_device_mapping><product_codes><product_code>A&lt;1&gt;</product_code>"
        "</product_codes><kernel_id>aki-1</kernel_id><ramdisk_id>ari-1</ramdisk_id>"
        "</machine_configuration><image><name>demo</name><user>1</user><type>machine</type>"
        f'<digest algorithm="SHA1">{"a" * 40}</digest><size>5</size>'
        "<bundled_size>16</bundled_size>"
        '<ec2_encrypted_key algorithm="AES-128-CBC">0a</ec2_encrypted_key>'
        '<user_encrypted_key algorithm="AES-128-CBC">0c</user_encrypted_key>'
        "<ec2_encrypted_iv>0b</ec2_encrypted_iv><user_encrypted_iv>0d</user_encrypted_iv>"
        '<parts count="1"><part index="0"><filename>demo.part.00</filename>'
        f'<digest algorithm="SHA1">{"b" * 40}</digest></part></parts></image>'
    )
    assert len(signature.partition("<")[0]) == 1024 // 4
    assert parse(document.encode()) == manifest_example()


def test_a_changed_manifest_fails_its_signature(sealer: Sealer) -> None:
    document = manifest_example().xml(sealer)
    verify(document, sealer.user.public_key())
    for old, new in ((b"aki-1", b"aki-2"), (b"b" * 40, b"c" * 40)):
        with pytest.raises(CloudError, match="signature"):
            verify(document.replace(old, new), sealer.user.public_key())
    with pytest.raises(CloudError, match="signature"):
        verify(document, sealer.cloud)
    with pytest.raises(CloudError, match="not signed"):
        verify(document.replace(b"signature>", b"sig>"), sealer.user.public_key())


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_manifest_is_read_or_refused(data: st.DataObject, sealer: Sealer) -> None:
    document = bytearray(manifest_example().xml(sealer))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(document) - 1))
        document[at : at + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=8))
        if not document:
            break
    try:
        parse(bytes(document))
    except CloudError as error:
        assert "manifest" in str(error)


def test_entities_are_refused() -> None:
    document = b'<!DOCTYPE m [<!ENTITY a "aaaa">]><manifest>&a;</manifest>'
    with pytest.raises(CloudError, match="document type"):
        parse(document)


def test_keys_open_for_the_cloud_and_the_user_and_nobody_else(
    sealer: Sealer, cloud_key: rsa.RSAPrivateKey, user_key: rsa.RSAPrivateKey
) -> None:
    sealed = sealer.seal(KEYS)
    for private in (cloud_key, user_key):
        opened = unseal(sealed, private)
        assert (opened.key, opened.iv) == (KEYS.key, KEYS.iv)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(CloudError, match="somebody else"):
        unseal(sealed, stranger)


def test_derived_keys_repeat_and_differ_by_secret_and_identity() -> None:
    first = BundleKeys.derived(b"secret", "demo", "digest")
    assert first == BundleKeys.derived(b"secret", "demo", "digest")
    others = [
        BundleKeys.derived(b"secret", "demo", "other"),
        BundleKeys.derived(b"secret2", "demo", "digest"),
        BundleKeys.derived(b"secret", "demod", "igest"),
        BundleKeys.random(),
    ]
    assert len({first.key, *(other.key for other in others)}) == 5
    assert len({first.iv, *(other.iv for other in others)}) == 5
    assert len({first.label, *(other.label for other in others)}) == 5


def test_keys_are_not_shown() -> None:
    assert KEYS.key.hex() not in repr(KEYS)
    assert repr(KEYS.key) not in repr(KEYS)


def _flip(parts: dict[str, bytes], name: str, at: int) -> None:
    data = bytearray(parts[name])
    data[at] ^= 1
    parts[name] = bytes(data)


def _flipped(manifest: Manifest, parts: dict[str, bytes]) -> Manifest:
    _flip(parts, "demo.part.01", 1234)
    return manifest


def _cut(manifest: Manifest, parts: dict[str, bytes]) -> Manifest:
    parts["demo.part.02"] = parts["demo.part.02"][:-16]
    return manifest


def _swapped(manifest: Manifest, parts: dict[str, bytes]) -> Manifest:
    parts["demo.part.00"], parts["demo.part.01"] = parts["demo.part.01"], parts["demo.part.00"]
    return manifest


def _unlisted(manifest: Manifest, _parts: dict[str, bytes]) -> Manifest:
    return replace(manifest, parts=manifest.parts[:-1])


def _wrong_size(manifest: Manifest, _parts: dict[str, bytes]) -> Manifest:
    return replace(manifest, size=manifest.size + 1)


def _wrong_digest(manifest: Manifest, _parts: dict[str, bytes]) -> Manifest:
    return replace(manifest, digest="0" * 40)


def _recorded(manifest: Manifest, parts: dict[str, bytes]) -> Manifest:
    """The flipped part's digest is put into the manifest: the archive's own gives it away."""
    _flip(parts, "demo.part.01", 1234)
    digests = (hashlib.sha1(part).hexdigest() for part in parts.values())
    listed = tuple(Part(name, digest) for name, digest in zip(parts, digests, strict=True))
    return replace(manifest, parts=listed)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_flipped, r"part 1, demo\.part\.01"),
        (_cut, r"part 2, demo\.part\.02"),
        (_swapped, r"part 0, demo\.part\.00"),
        (_unlisted, r"bytes, the manifest says|padding|gzip|ends too early"),
        (_wrong_size, r"bytes and the manifest says"),
        (_wrong_digest, r"the archive's SHA-1"),
        (_recorded, r"decompress|SHA-1|archive"),
    ],
)
def test_damage_is_named_and_nothing_is_left(
    damage: Callable[[Manifest, dict[str, bytes]], Manifest],
    words: str,
    tmp_path: Path,
    sealer: Sealer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle_module, "PART_SIZE", 80_000)
    manifest, parts = make(write(tmp_path / "i", noise(200_000)), sealer)
    assert len(parts) == 3
    manifest = damage(manifest, parts)
    with pytest.raises(CloudError, match=words):
        unbundle(manifest, KEYS, lambda part: parts[part.filename], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_the_wrong_key_is_told(tmp_path: Path, sealer: Sealer) -> None:
    manifest, parts = make(write(tmp_path / "i", noise(100_000)), sealer)
    wrong = BundleKeys(bytes(16), bytes(16))
    with pytest.raises(CloudError, match=r"padding|decompress"):
        unbundle(manifest, wrong, lambda part: parts[part.filename], tmp_path / "out")


def test_a_bomb_ends_early(tmp_path: Path, sealer: Sealer) -> None:
    """A small part that inflates to far more than the manifest says."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo("x")
        member.size = 10
        tar.addfile(member, io.BytesIO(bytes(10)))
    part = encrypted(gzip.compress(stream.getvalue() + bytes(64 << 20)))
    manifest = replace(
        make(write(tmp_path / "i", bytes(10)), sealer)[0],
        bundled_size=len(part),
        parts=(Part("p", hashlib.sha1(part).hexdigest()),),
    )
    with pytest.raises(CloudError, match="the archive's SHA-1"):
        unbundle(manifest, KEYS, lambda _part: part, tmp_path / "out")


def test_what_comes_back_has_its_holes(tmp_path: Path, sealer: Sealer) -> None:
    image = write(tmp_path / "i", b"begin", 32 * PIECE, b"end")
    manifest, parts = make(image, sealer)
    out = tmp_path / "out"
    unbundle(manifest, KEYS, lambda part: parts[part.filename], out)
    assert out.stat().st_blocks * 512 <= 4 * PIECE
