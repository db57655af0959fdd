"""Bundles as they lie in a directory or a bucket: `unbundle` for users."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.clouds.aws.keys import load_private_key, load_public_key, signing_key
from pipeline.clouds.aws.objects import Bucket
from pipeline.clouds.aws.session import open_site
from pipeline.clouds.bundle.codec import unbundle
from pipeline.clouds.bundle.manifest import LARGEST_MANIFEST, Manifest, Part, parse, unseal, verify
from pipeline.core.errors import InputError
from pipeline.core.events import Progress

_S3 = "s3://"


def unbundle_image(
    source: str,
    out: Path,
    *,
    progress: Progress,
    profile: str = "",
    private_key: Path | None = None,
    signer: Path | None = None,
) -> Manifest:
    """Write the image of a bundle to `out`; the signature and every size and digest are checked.

    source: a manifest's path, its parts beside it, or s3://BUCKET/KEY of a manifest, read with
    the AWS profile. private_key: opens the bundle, the user's or the cloud's; signer: the
    certificate or public key of whoever signed it; both default to this user's own pair.
    """
    if out.exists():
        raise InputError(
            "unbundle to", out, why="it exists", next_step="Move it away, or name another file"
        )
    key = load_private_key(private_key) if private_key else signing_key()
    public = load_public_key(signer) if signer else signing_key().public_key()
    document, fetch = _open(source, profile)
    verify(document, public)
    manifest = parse(document)
    keys = unseal(manifest.sealed, key)
    with progress.task(f"Unbundling {manifest.name}", manifest.size) as meter:
        unbundle(manifest, keys, lambda part: fetch(part, manifest), out, meter.advance)
    return manifest


def _open(source: str, profile: str) -> tuple[bytes, Callable[[Part, Manifest], bytes]]:
    """The manifest and a way to its parts."""
    if source.startswith(_S3):
        bucket_name, _, key = source.removeprefix(_S3).partition("/")
        if not (bucket_name and key):
            raise InputError(
                "read the bundle manifest",
                source,
                why="it names no object of a bucket",
                next_step=f"Write {_S3}BUCKET/KEY",
            )
        site = open_site(f"s3:{profile}" if profile else "s3", profile)
        bucket = Bucket(site.s3(), bucket_name, site.word)
        # The parts' names are full keys of the bucket, as OpenStack reads them.
        return bucket.get(key, LARGEST_MANIFEST), lambda part, manifest: bucket.get(
            part.filename, manifest.bundled_size
        )
    path = Path(source)

    def beside(part: Part, _manifest: Manifest) -> bytes:
        # The name alone: a manifest must not lead to files elsewhere.
        return _read(path.with_name(Path(part.filename).name))

    return _read(path), beside


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            "read",
            path,
            why=error.strerror or str(error),
            next_step="Name the bundle's manifest, with all of its parts beside it",
        ) from error
