"""EC2 bundles: this pipeline against the shell chain that users of the format type.

    python -m benchmarks.bundle [--data-mib 512] [--holes-mib 1024] [--rounds 3] [--directory DIR]

The image is programs and libraries of this host with holes between. Rounds alternate between the
rivals; medians are shown. Both kinds of bundle are decoded by the product's own decoder and must
give the image back. Prints a table and writes docs/benchmarks-bundle.md and .svg. Compare ratios,
not seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.bars import bars
from pipeline.clouds.bundle import PART_SIZE, bundle, part_name, unbundle
from pipeline.clouds.bundle_archive import Compression
from pipeline.clouds.bundle_manifest import BundleKeys, Manifest, Part, Sealer
from pipeline.model import Role
from pipeline.settings import PROJECT

MIB = 1 << 20
KEYS = BundleKeys(bytes(range(16)), bytes(range(16)))
# sha1sum reads the tar beside gzip, as `euca-bundle-image` does; the parts' digests come after.
_CHAIN = r"""
set -euo pipefail
tar --create --file - --directory "$(dirname "$IMAGE")" "$(basename "$IMAGE")" |
    tee >(sha1sum > tar.sha1) | gzip |
    openssl enc -e -aes-128-cbc -K "$KEY" -iv "$IV" | split --bytes "$PART" --numeric-suffixes - p.
sha1sum p.* > parts.sha1
wait
"""


@dataclass(frozen=True)
class Cost:
    """One run: wall and CPU seconds, bytes of the parts."""

    wall: float
    cpu: float
    size: int


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


def ours(compression: Compression) -> Callable[[Path, Path, Sealer], Manifest]:
    """The product's bundler, its parts written to files as the chain's are."""

    def run(image: Path, directory: Path, sealer: Sealer) -> Manifest:
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

    return run


def chain(image: Path, directory: Path, sealer: Sealer) -> Manifest:
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
    "ours, fast (the default)": ours("fast"),
    "ours, small": ours("small"),
    "tar, gzip, openssl, split, sha1sum": chain,
}
_CHAIN_NAME = list(RIVALS)[-1]


def measure(name: str, image: Path, directory: Path, sealer: Sealer, check: bytes | None) -> Cost:
    """Run one rival in an empty directory; `check` is the digest its bundle must decode to."""
    work = directory / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    before = _cpu()
    begun = time.monotonic()
    manifest = RIVALS[name](image, work, sealer)
    cost = Cost(time.monotonic() - begun, _cpu() - before, manifest.bundled_size)
    if check is not None:
        unbundle(manifest, KEYS, lambda p: (work / p.filename).read_bytes(), work / "decoded")
        if _digest(work / "decoded") != check:
            raise SystemExit(f"{name}: the decoder did not give the image back")
    return cost


def _cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def main() -> None:
    """Measure, print, write the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-mib", type=int, default=512)
    parser.add_argument("--holes-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    sealer = Sealer(key.public_key(), key)
    load = os.getloadavg()[0]
    costs: dict[str, list[Cost]] = {name: [] for name in RIVALS}
    with tempfile.TemporaryDirectory(dir=options.directory) as text:
        image = Path(text) / "image"
        make_image(image, options.data_mib * MIB, options.holes_mib * MIB)
        size = image.stat().st_size
        digest = _digest(image)
        for number in range(options.rounds):
            for name in RIVALS:
                check = digest if number == 0 else None
                costs[name].append(measure(name, image, Path(text), sealer, check))
                print(f"round {number + 1}: {name}: {costs[name][-1].wall:.2f} s", file=sys.stderr)
    medians = {
        name: Cost(
            statistics.median(cost.wall for cost in runs),
            statistics.median(cost.cpu for cost in runs),
            runs[0].size,
        )
        for name, runs in costs.items()
    }
    base = medians[_CHAIN_NAME]
    lines = [
        "# Benchmark: EC2 bundles",
        "",
        f"`python -m benchmarks.bundle {' '.join(sys.argv[1:])}`".rstrip(" `") + "`",
        "",
        f"An image of {size / MIB:.0f} MiB, {options.data_mib} of them data; medians of"
        f" {options.rounds} alternating rounds; {len(os.sched_getaffinity(0))} cores with a load of"
        f" {load:.1f} before the first round (above their number, wall time tells little),"
        f" {platform.machine()}, Python {platform.python_version()}. Each bundle was decoded to the"
        " image again.",
        "",
        "| | wall s | CPU s | parts MiB | times as fast as the chain | times less CPU |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {cost.wall:.2f} | {cost.cpu:.2f} | {cost.size / MIB:.1f}"
            f" | {base.wall / cost.wall:.2f} | {base.cpu / cost.cpu:.2f} |"
            for name, cost in medians.items()
        ),
        "",
        "![wall time](benchmarks-bundle.svg)",
        "",
    ]
    text = "\n".join(lines)
    print(text)
    (PROJECT / "docs" / "benchmarks-bundle.md").write_text(text)
    plot = bars("Bundling, seconds", {name: cost.wall for name, cost in medians.items()})
    (PROJECT / "docs" / "benchmarks-bundle.svg").write_text(plot)


if __name__ == "__main__":
    main()
