"""The EC2 bundle: an image as an encrypted, split, signed archive, and back.

Format: AWS's AMI tools and euca2ools, manifest version 2007-10-10. A single-member tar, gzip,
AES-128-CBC with PKCS #7 padding (`openssl enc -aes-128-cbc -K -iv`), parts of 10 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.clouds.bundle_manifest import BundleKeys, Manifest, Part, Sealer
from pipeline.model import Role

Sink = Callable[[int, bytes], None]
"""Takes a finished part: its index from 0 and its bytes. May block to hold the bundler back."""


def bundle(
    image: Path,
    kind: Role,
    *,
    name: str,
    architecture: str,
    user: str,
    sealer: Sealer,
    sink: Sink,
    keys: BundleKeys | None = None,
) -> Manifest:
    """Bundle a raw image without a temporary copy; parts go to `sink` in order as they are made."""
    raise NotImplementedError


def unbundle(
    manifest: Manifest, keys: BundleKeys, fetch: Callable[[Part], bytes], out: Path
) -> None:
    """Write the image of a bundle to `out`, every size and digest checked."""
    raise NotImplementedError
