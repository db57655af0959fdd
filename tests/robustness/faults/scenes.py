"""What is killed: builds and uploads by the product's own commands, with the real servers.

Each scene gives a Bench whose command can be run, disturbed and run again any number of times.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tests.robustness.faults.bench import Bench
from tests.robustness.faults.disks import small_disk
from tests.servers import glance
from tests.servers.fixtures import token_settings
from tests.servers.processes import Processes, free_port

Scene = Callable[[Path, Path | None], AbstractContextManager[Bench]]
"""(a directory of its own, an installed disk or None for a small one) to the bench."""

_UNPROVED = ("--no-verify", "upload", "--unverified")
_ROLES = {"aki": "kernel", "ari": "ramdisk", "ami": "machine"}


def _from_disk(directory: Path, disk: Path | None) -> list[str]:
    return ["build", "demo", "--disk", str((disk or small_disk(directory / "disk.img")).absolute())]


@contextmanager
def build(directory: Path, disk: Path | None) -> Iterator[Bench]:
    """A disk to a registered triple: extraction, edits, collection, the local catalogue."""
    yield Bench(directory, [*_from_disk(directory, disk), *_UNPROVED])


@contextmanager
def boot(directory: Path, disk: Path | None) -> Iterator[Bench]:
    """The same with the boot check: two guests."""
    if disk is None:
        raise SystemExit("boot needs --disk: any build has one that boots, build/NAME/disk.img")
    yield Bench(directory, [*_from_disk(directory, disk), "upload"])


@contextmanager
def install(directory: Path, disk: Path | None) -> Iterator[Bench]:
    """virt-install and the embedded demo's installer, then the same."""
    yield Bench(directory, ["build", "demo", *_UNPROVED])


@contextmanager
def glance_upload(directory: Path, disk: Path | None) -> Iterator[Bench]:
    """A finished build to a real Glance."""
    from tests.contract.glance_site import RawGlance

    servers = Processes(directory / "logs", tied=True)
    try:
        url = glance.start(servers, directory / "glance", free_port(), None)
        token = f"user:{uuid.uuid4().hex}:member,reader"
        raw = RawGlance(url, token)
        config = directory / "clouds.yaml"
        config.write_text(json.dumps({"clouds": {"mine": token_settings(url, token)}}))

        def reset() -> None:
            for image in raw.images() + raw.images(os_hidden="true"):
                raw.call("DELETE", f"images/{image['id']}")

        def look() -> list[str]:
            # A kernel that is still hidden is as good for its machine image as one that is shown.
            hidden = [_glance_image(image) for image in raw.images(os_hidden="true")]
            return _unlinked([_glance_image(image) for image in raw.images()], hidden)

        def look_whole() -> list[str]:
            images = raw.images() + raw.images(os_hidden="true")
            found = [] if len(images) == 3 else [f"Glance has {len(images)} images, not 3"]
            found += [f"{image['id']} is hidden" for image in images if image["os_hidden"]]
            for image in images:
                role = _ROLES[image["container_format"]]
                if image["os_hash_value"] != _sha512(_file_of(directory, role)):
                    found.append(f"Glance's {role} is another file")
            return found

        yield _finished(
            directory,
            disk,
            "glance:mine",
            {"OS_CLIENT_CONFIG_FILE": str(config)},
            reset=reset,
            look=look,
            look_whole=look_whole,
        )
    finally:
        servers.stop()


@contextmanager
def ec2_upload(directory: Path, disk: Path | None) -> Iterator[Bench]:
    """A finished build to the strict stand-in of an S3-backed EC2 cloud."""
    from tests.contract.ec2_site import standin

    os.environ["IMAGE_PIPELINE_CONFIG"] = str(directory / "config")  # where the signing key lies
    with standin(directory) as (cloud, certificate):
        environment = {
            **cloud.environment,
            "EC2_BUCKET": "images",
            "EUCALYPTUS_CERT": str(certificate),
            "IMAGE_PIPELINE_CACHE": str(directory / "cache"),
        }

        def reset() -> None:
            cloud.ec2.images.clear()
            cloud.s3.buckets.clear()

        def images() -> list[dict[str, Any]]:
            return [
                {
                    "id": image.id,
                    "role": str(image.kind),
                    "status": image.state,
                    "parents": [image.kernel_id, image.ramdisk_id],
                }
                for image in cloud.ec2.images.values()
            ]

        def look() -> list[str]:
            # A kernel that nothing names is private and taken over by the next run.
            machines = [image for image in images() if image["role"] == "machine"]
            linked = {parent for image in machines for parent in image["parents"]}
            return _unlinked([i for i in images() if i in machines or i["id"] in linked])

        def look_whole() -> list[str]:
            found = [] if len(images()) == 3 else [f"the cloud has {len(images())} images, not 3"]
            for image in cloud.ec2.images.values():
                if image.data != _file_of(directory, str(image.kind)).read_bytes():
                    found.append(f"the cloud's {image.kind} is another file")
            return found

        yield _finished(
            directory, disk, "ec2", environment, reset=reset, look=look, look_whole=look_whole
        )


SCENES: Mapping[str, Scene] = {
    "build": build,
    "glance": glance_upload,
    "ec2": ec2_upload,
    "boot": boot,
    "install": install,
}


def _finished(
    directory: Path,
    disk: Path | None,
    cloud: str,
    environment: dict[str, str],
    *,
    reset: Callable[[], None],
    look: Callable[[], list[str]],
    look_whole: Callable[[], list[str]],
) -> Bench:
    """A bench whose command uploads a build that is made now."""
    making = Bench(directory, [*_from_disk(directory, disk), "--no-verify"])
    if making.run():
        raise RuntimeError(making.output.read_text()[-2000:])
    return Bench(
        directory,
        ["upload", "--recipe", "demo", "--unverified", "--cloud", cloud],
        environment=environment,
        reset=reset,
        look=look,
        look_whole=look_whole,
        keep=True,
    )


def _glance_image(image: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": image["id"],
        "role": _ROLES[image["container_format"]],
        "status": "available" if image["status"] == "active" else image["status"],
        "parents": [image.get("kernel_id"), image.get("ramdisk_id")],
    }


def _unlinked(visible: list[dict[str, Any]], hidden: Iterable[dict[str, Any]] = ()) -> list[str]:
    """What is wrong with the images that everybody sees: all or nothing must be there.

    hidden: images that no list shows, and that can be used all the same.
    """
    available = {image["id"] for image in visible if image["status"] == "available"}
    machines = [i for i in visible if i["role"] == "machine" and i["id"] in available]
    linked = {parent for image in machines for parent in image["parents"]}
    found = [f"visible {i['role']} {i['id']} is {i['status']}" for i in visible
             if i["id"] not in available and i["role"] != "machine"]  # fmt: skip
    usable = available | {image["id"] for image in hidden if image["status"] == "available"}
    found += [f"a machine image names {parent}" for parent in linked - usable]
    if machines:
        alone = available - linked - {image["id"] for image in machines}
        found += [f"{image_id} is visible and linked to nothing" for image_id in alone]
    return found


def _file_of(directory: Path, role: str) -> Path:
    place = directory / "build" / "demo"
    artifacts = json.loads((place / "manifest.json").read_text())["artifacts"]
    return place / next(str(each["file"]) for each in artifacts if each["role"] == role)


def _sha512(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()
