"""Copies of an image in further regions, made and shared by the cloud's own calls."""

from __future__ import annotations

from pipeline.clouds.aws.images import Images, RegisteredImage
from pipeline.clouds.aws.session import Site
from pipeline.clouds.aws.snapshots import Snapshots
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.events import Progress

AVAILABLE_SECONDS = 900.0
"""An image of a completed snapshot is available within a minute on AWS."""
# Tag of the image: its own id, which a copy's is not, and its copies, "REGION:IMAGE", by spaces.
_COPIES = "image_pipeline_copies"


def copies(image: RegisteredImage) -> dict[str, str]:
    """Region -> id of the image's copies, as its tag says."""
    owner, *places = image.tags.get(_COPIES, "").split() or [""]
    return dict(place.split(":", 1) for place in places) if owner == image.id else {}


def copy_to_regions(
    site: Site,
    account: Images,
    machine: RegisteredImage,
    options: PublishOptions,
    progress: Progress,
) -> None:
    """Copy the image to further regions; a copy that is there is kept, and shared likewise."""
    known = copies(machine)
    for region in options.regions:
        if region == account.region:
            continue
        there = Images(site, region=region)
        before = known.get(region, "")
        kept = any(image.id == before and not image.failed for image in there.own())
        label = f"{site.word}: copying to {region}"
        with progress.task(label, unit="steps") as meter:
            if not kept:
                known[region] = there.copy(machine, account.region, instead=before)
                # Recorded before it is done: an interrupted run must not lose it.
                places = [f"{r}:{i}" for r, i in sorted(known.items())]
                account.tag([machine.id], {_COPIES: " ".join([machine.id, *places])})
            there.wait(known[region], label, AVAILABLE_SECONDS, lambda: meter.advance(0))
            there.share(known[region], options)


def withdraw_copy(site: Site, region: str, image_id: str) -> None:
    """Deregister a copy and delete its snapshot; one that is gone already is no error."""
    there = Images(site, region=region)
    for image in there.own():
        if image.id == image_id:
            there.deregister(image.id)
            if image.snapshot_id:
                Snapshots(site, region=region).delete(image.snapshot_id)
