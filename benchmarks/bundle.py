"""EC2 bundles: this pipeline against the shell chain that users of the format type."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.bars import bars
from benchmarks.document import Section
from benchmarks.measure import MIB, Options, Work, alternate, circumstances, cost_table, host
from pipeline.clouds.bundle.archive import Compression
from pipeline.clouds.bundle.codec import PART_SIZE, bundle, part_name, unbundle
from pipeline.clouds.bundle.manifest import BundleKeys, Manifest, Part, Sealer
from pipeline.core.image import Role

KEYS = BundleKeys(bytes(range(16)), bytes(range(16)))
CHAIN = "tar, gzip, openssl, split, sha1sum"
# sha1sum reads the tar beside gzip, as `euca-bundle-image` does; the parts' digests come after.
_CHAIN = r"""
set -euo pipefail
tar --create --file - --directory "$(dirname "$IMAGE")" "$(basename "$IMAGE")" |
    tee >(sha1sum > tar.sha1) | gzip |
    openssl enc -e -aes-128-cbc -K "$KEY" -iv "$IV" | split --bytes "$PART" --numeric-suffixes - p.
sha1sum p.* > parts.sha1
wait
"""


def make_image(path: Path, data: int, holes: int) -> None:
    """`data` bytes of this host's programs in 16 stretches, `holes` bytes between them."""
    chunks = _program_bytes()
    with path.open("wb") as file:
        for _ in range(16):
            left = data // 16
            while left > 0:
                chunk = next(chunks)[:left]
                file.write(chunk)
                left -= len(chunk)
            file.seek(holes // 16, os.SEEK_CUR)
        file.truncate()


def _program_bytes() -> Iterator[bytes]:
    while True:
        for directory in ("/usr/lib/x86_64-linux-gnu", "/usr/bin", "/usr/sbin"):
            for entry in sorted(Path(directory).iterdir()):
                if entry.is_file() and not entry.is_symlink():
                    yield entry.read_bytes()


def _ours(compression: Compression, image: Path, directory: Path, sealer: Sealer) -> Manifest:
    """The product's bundler, its parts written to files as the chain's are."""

    def sink(index: int, data: bytes) -> None:
        (directory / part_name("p", index)).write_bytes(data)

    return bundle(
        image,
        Role.MACHINE,
        name="p",
        architecture="x86_64",
        user="0" * 12,
        sealer=sealer,
        sink=sink,
        keys=KEYS,
        compression=compression,
    )


def _chain(image: Path, directory: Path, sealer: Sealer) -> Manifest:
    """The shell chain; a manifest from what it left."""
    words = {"IMAGE": str(image), "PART": str(PART_SIZE), "LC_ALL": "C", "PATH": os.environ["PATH"]}
    secret = {"KEY": KEYS.key.hex(), "IV": KEYS.iv.hex()}
    subprocess.run(["bash", "-c", _CHAIN], cwd=directory, env=words | secret, check=True)
    lines = [line.split() for line in (directory / "parts.sha1").read_text().splitlines()]
    return Manifest(
        name="p",
        user="0" * 12,
        kind=Role.MACHINE,
        architecture="x86_64",
        digest=(directory / "tar.sha1").read_text()[:40],
        size=image.stat().st_size,
        bundled_size=sum((directory / name).stat().st_size for _, name in lines),
        sealed=sealer.seal(KEYS),
        parts=tuple(Part(name, digest) for digest, name in lines),
    )


RIVALS: dict[str, Callable[[Path, Path, Sealer], Manifest]] = {
    "this pipeline, fast (the default)": partial(_ours, "fast"),
    "this pipeline, small": partial(_ours, "small"),
    CHAIN: _chain,
}


def sections(options: Options) -> Iterator[Section]:
    """Bundle an image with both; every kind of bundle is decoded to the image again, untimed."""
    data, holes = (128, 256) if options.quick else (512, 1024)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    sealer = Sealer(key.public_key(), key)
    with tempfile.TemporaryDirectory(dir=options.directory) as text:
        work = Path(text)
        image = work / "image"
        make_image(image, data * MIB, holes * MIB)
        for name, rival in RIVALS.items():
            _prove(name, rival, image, work / "proof", sealer)

        def run(rival: Callable[[Path, Path, Sealer], Manifest], out: Path) -> None:
            rival(image, out, sealer)

        contenders: dict[str, Work] = {name: partial(run, rival) for name, rival in RIVALS.items()}
        costs = alternate(contenders, options.rounds, work, base=CHAIN)
    ours = costs[next(iter(RIVALS))]
    words = (
        f"{host(options.directory)}. An image of {data + holes} MiB, {data} of them programs and"
        " libraries of this host, the rest holes between. Both kinds of bundle were decoded to the"
        " image again, byte for byte, by the product's decoder. The image is in the page cache."
        f"\n\n{circumstances(costs, options.rounds)}\n\n{cost_table(costs, 'chain')}\n"
        f"This pipeline: {1 / ours.ratio:.1f} x as fast as the chain (target 4), with"
        f" {costs[CHAIN].cpu / ours.cpu:.1f} times less CPU."
    )
    yield Section(
        words, bars("Bundling, seconds (median)", {n: c.seconds for n, c in costs.items()})
    )


def _prove(
    name: str,
    rival: Callable[[Path, Path, Sealer], Manifest],
    image: Path,
    work: Path,
    sealer: Sealer,
) -> None:
    work.mkdir()
    manifest = rival(image, work, sealer)
    unbundle(manifest, KEYS, lambda part: (work / part.filename).read_bytes(), work / "decoded")
    if _digest(work / "decoded") != _digest(image):
        raise SystemExit(f"{name}: the decoder did not give the image back")
    for file in work.iterdir():
        file.unlink()
    work.rmdir()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
