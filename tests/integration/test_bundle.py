"""Bundles decoded with nothing but openssl, gzip and tar, and the command that fetches them."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pipeline.clouds.aws.keys import bundle_secret, load_public_key, signing_key
from pipeline.clouds.aws.unbundle import unbundle_image
from pipeline.clouds.bundle.codec import PART_SIZE, bundle, part_name
from pipeline.clouds.bundle.manifest import Manifest, Sealer
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Role

pytestmark = pytest.mark.integration

# What a user of the format would type; only shell tools, told the manifest's values alone.
_DECODE = r"""
set -eu
value() { sed -n "s/.*<$1[^>]*>\([^<]*\)<\/$1>.*/\1/p" demo.manifest.xml; }
open_hex() { value "$1" | xxd -r -p | openssl pkeyutl -decrypt -inkey cloud-key.pem; }
key=$(open_hex ec2_encrypted_key) iv=$(open_hex ec2_encrypted_iv)
cat demo.part.* | openssl enc -d -aes-128-cbc -K "$key" -iv "$iv" > demo.tgz
gzip --decompress --stdout demo.tgz > demo.tar
test "$(sha1sum < demo.tar | cut -c 1-40)" = "$(sed -n \
    's/.*<\/type><digest algorithm="SHA1">\([0-9a-f]*\)<.*/\1/p' demo.manifest.xml)"
tar --extract --to-stdout --file demo.tar > decoded
sed -n 's/.*\(<machine_configuration>.*<\/image>\).*/\1/p' demo.manifest.xml |
    tr --delete '\n' > signed
value signature | xxd -r -p > signature
openssl dgst -sha1 -verify user-public.pem -signature signature signed
"""


@pytest.fixture(autouse=True)
def own_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IMAGE_PIPELINE_CONFIG", str(tmp_path / "config"))
    for name in ("EC2_PRIVATE_KEY", "EC2_CERT", "EUCALYPTUS_CERT"):
        monkeypatch.delenv(name, raising=False)


def make_bundle(directory: Path, size: int) -> tuple[Path, Manifest]:
    """A bundle in `directory` with the keys beside it; its image and manifest."""
    cloud = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = cloud.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "cloud-key.pem").write_bytes(private)
    user = signing_key()
    public = user.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "user-public.pem").write_bytes(public)
    image = directory / "image"
    with image.open("wb") as file:
        file.write(random.Random(size).randbytes(size))
        file.seek(5 << 20, 1)
        file.write(b"end")
    sealer = Sealer(cloud.public_key(), user)
    manifest = bundle(
        image,
        Role.MACHINE,
        name="demo",
        architecture="x86_64",
        user="0" * 12,
        sealer=sealer,
        sink=lambda i, data: _ignore((directory / part_name("demo", i)).write_bytes(data)),
    )
    (directory / "demo.manifest.xml").write_bytes(manifest.xml(sealer))
    return image, manifest


def _ignore(_count: int) -> None:
    pass


def test_openssl_gzip_and_tar_decode_a_bundle_of_several_parts(tmp_path: Path) -> None:
    image, manifest = make_bundle(tmp_path, 2 * PART_SIZE + 12_345)
    assert len(manifest.parts) == 3
    done = subprocess.run(
        ["bash", "-c", _DECODE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Verified OK" in done.stdout
    assert (tmp_path / "decoded").read_bytes() == image.read_bytes()


def test_unbundle_opens_it_for_the_user_and_for_the_cloud(tmp_path: Path) -> None:
    image, _ = make_bundle(tmp_path, 100_000)
    source = str(tmp_path / "demo.manifest.xml")
    for number, key in enumerate((None, tmp_path / "cloud-key.pem")):
        out = tmp_path / f"out-{number}"
        unbundle_image(source, out, progress=QuietProgress(), private_key=key)
        assert out.read_bytes() == image.read_bytes()
    with pytest.raises(InputError, match="exists"):
        unbundle_image(source, out, progress=QuietProgress())


def test_unbundle_names_the_flipped_part_and_the_changed_manifest(tmp_path: Path) -> None:
    make_bundle(tmp_path, PART_SIZE + 5)
    part = tmp_path / "demo.part.01"
    data = bytearray(part.read_bytes())
    data[7] ^= 4
    part.write_bytes(data)
    manifest = tmp_path / "demo.manifest.xml"
    with pytest.raises(CloudError, match=r"part 1, demo\.part\.01"):
        unbundle_image(str(manifest), tmp_path / "out", progress=QuietProgress())
    manifest.write_bytes(manifest.read_bytes().replace(b"x86_64", b"i386"))
    with pytest.raises(CloudError, match="signature"):
        unbundle_image(str(manifest), tmp_path / "out", progress=QuietProgress())
    assert not (tmp_path / "out").exists()


def test_a_manifest_cannot_lead_to_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    make_bundle(tmp_path / "inner", 1000)
    (tmp_path / "demo.part.00").write_bytes(b"elsewhere")
    manifest = tmp_path / "inner" / "demo.manifest.xml"
    sealer = Sealer(signing_key().public_key(), signing_key())
    document = manifest.read_bytes().replace(b">demo.part.00<", b">../demo.part.00<")
    signed = document[document.index(b"<machine_conf") : document.index(b"</image>") + 8]
    head, _, _ = document.partition(b"<signature>")
    manifest.write_bytes(head + f"<signature>{sealer.sign(signed)}</signature></manifest>".encode())
    unbundle_image(str(manifest), tmp_path / "out", progress=QuietProgress())
    assert (tmp_path / "out").stat().st_size == 1000 + (5 << 20) + 3


def test_the_user_s_keys_are_made_once_and_private(tmp_path: Path) -> None:
    first = signing_key()
    secret = bundle_secret()
    assert signing_key().private_numbers() == first.private_numbers()
    assert bundle_secret() == secret
    files = list((tmp_path / "config").iterdir())
    assert {path.name for path in files} == {"ec2-signing-key.pem", "bundle-secret"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "config").stat().st_mode & 0o777 == 0o700


def test_a_certificate_of_openssl_is_read_and_others_are_refused(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    request = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=cloud"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*request, "-newkey", "rsa:2048", *files], check=True, capture_output=True)
    public = load_public_key(certificate)
    assert public == x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run([*request, *curve, *files], check=True, capture_output=True)
    with pytest.raises(InputError, match="RSA"):
        load_public_key(certificate)
    certificate.write_text("no certificate")
    with pytest.raises(InputError, match="cert"):
        load_public_key(certificate)
