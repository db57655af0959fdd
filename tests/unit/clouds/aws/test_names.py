"""Names of bundles, and which certificate is the cloud's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.clouds.aws.images import RegisteredImage, check_options, user_tags
from pipeline.clouds.aws.keys import certificate_path
from pipeline.clouds.aws.names import Names, from_metadata, to_metadata
from pipeline.clouds.aws.objects import Stored, missing
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.errors import InputError
from pipeline.core.image import Artifact, Image, Role

NAMES = Names("images", "ci-")


def images(name: str = "vmlinuz-like", machine: str = "c" * 64) -> Image:
    files = {
        role: Artifact(role, Path(role), digest, 1, 1)
        for role, digest in (
            (Role.KERNEL, "a" * 64),
            (Role.RAMDISK, "b" * 64),
            (Role.MACHINE, machine),
        )
    }
    return Image(
        name=name,
        architecture="x86_64",
        artifacts=tuple(files.values()),
        kernel_version="1",
        command_line="",
    )


def image(image_id: str, location: str, kernel: str = "", ramdisk: str = "") -> RegisteredImage:
    return RegisteredImage(image_id, "", location, "available", "", kernel, ramdisk, "", {})


def test_names_are_made_of_content_and_never_begin_like_a_kernel_s_file() -> None:
    build = images()
    stems = [NAMES.of(build, file) for file in build.triple]
    assert stems[0] == f"ci-kernel-vmlinuz-like-{'a' * 32}"
    assert stems[1] == f"ci-ramdisk-vmlinuz-like-{'b' * 32}"
    assert stems[2].startswith("ci-machine-vmlinuz-like-")
    assert NAMES.machine(images(machine="d" * 64)) != stems[2]
    assert not any(stem.startswith(("vmlinuz", "initrd", "windows")) for stem in stems)


def test_the_longest_recipe_name_fits_ec2_s_limit() -> None:
    stem = Names("b").machine(images("n" * 63))
    assert len(stem) <= 128


def test_only_manifests_of_this_bucket_and_recipe_are_ours() -> None:
    stem = NAMES.machine(images("demo"))
    assert NAMES.stem(NAMES.location(stem)) == stem
    assert NAMES.is_machine(stem, "demo")
    for location in (f"other/{stem}.manifest.xml", f"images/{stem}", "images", ""):
        assert NAMES.stem(location) == ""
    for name in ("dem", "demo-2", "d.mo"):
        assert not NAMES.is_machine(stem, name)
    assert not NAMES.is_machine(f"{stem}0", "demo")
    assert not Names("images").is_machine(stem, "demo")


def test_a_machine_image_is_whole_with_its_kernel_and_ramdisk() -> None:
    stem = NAMES.machine(images("demo"))
    machine = image("ami-1", NAMES.location(stem), "aki-1", "ari-1")
    kernel, ramdisk = image("aki-1", "x"), image("ari-1", "y")
    assert NAMES.whole([machine, kernel, ramdisk], stem) == [machine]
    assert NAMES.whole([machine, kernel], stem) == []
    unlinked = image("ami-1", NAMES.location(stem))
    assert NAMES.whole([unlinked, kernel, ramdisk], stem) == []


def test_marks_survive_headers() -> None:
    marks = {"image_pipeline_key": "k", "image_pipeline_name": "demo"}
    assert not any("_" in name for name in to_metadata(marks))
    assert from_metadata({k.title(): v for k, v in to_metadata(marks).items()}) == marks


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, None),
        ({"EC2_CERT": "/c"}, "/c"),
        ({"EC2_CERT": "/user", "EC2_PRIVATE_KEY": "/key"}, None),
        ({"EC2_CERT": "/user", "EC2_PRIVATE_KEY": "/key", "EUCALYPTUS_CERT": "/c"}, "/c"),
    ],
)
def test_the_user_s_certificate_is_not_taken_for_the_cloud_s(
    environ: dict[str, str], path: str | None
) -> None:
    assert certificate_path(None, environ) == (Path(path) if path else None)
    assert certificate_path(Path("/o"), environ) == Path("/o")


def test_lost_and_changed_parts_are_missing() -> None:
    md5 = "0" * 32
    wanted = {"a": Stored(1, md5), "b": Stored(2, md5), "c": Stored(3, md5), "d": Stored(4, md5)}
    listed = {
        "a": Stored(1, md5),
        "b": Stored(2, "1" * 32),
        "c": Stored(3, "an ETag of encrypted storage, no MD5"),
    }
    assert missing(wanted, listed) == ["b", "d"]


def test_a_part_is_known_by_size_and_md5() -> None:
    stored = Stored(3, "900150983cd24fb0d6963f7d28e17f72")
    assert stored.holds(b"abc", hashlib.md5(b"abc").digest())
    assert not stored.holds(b"abd", hashlib.md5(b"abd").digest())


def test_tags_are_pairs() -> None:
    assert user_tags(["team=release", "ci", "a=b=c"]) == {"team": "release", "ci": "", "a": "b=c"}


@pytest.mark.parametrize(
    "options",
    [
        PublishOptions(hidden=True),
        PublishOptions(visibility="community"),
        PublishOptions(visibility="shared"),
        PublishOptions(members=("123456789012",)),
    ],
)
def test_what_ec2_has_no_notion_of_is_refused(options: PublishOptions) -> None:
    with pytest.raises(InputError, match="EC2 has no"):
        check_options(options, "ec2")


def test_orphans_are_old_bundles_without_manifest_and_image() -> None:
    names = Names("images", "x-")
    digits = {letter: letter * 32 for letter in "abcdef"}
    used = image("ami-1", f"images/x-machine-demo-{digits['e']}.manifest.xml")
    ages = {
        f"x-machine-demo-{digits['a']}.k1.part.00": 90.0,
        f"x-machine-demo-{digits['a']}.k1.part.01": 80.0,
        f"x-kernel-demo-{digits['b']}.k1.part.00": 90.0,
        f"x-kernel-demo-{digits['b']}.manifest.xml": 90.0,
        f"x-ramdisk-demo-{digits['c']}.k1.part.00": 90.0,
        f"x-ramdisk-demo-{digits['c']}.k1.part.01": 10.0,
        f"x-machine-demo-{digits['e']}.k1.part.00": 90.0,
        f"x-machine-demo2-{digits['f']}.k1.part.00": 90.0,
        f"machine-demo-{digits['d']}.k1.part.00": 90.0,
        "x-machine-demo-notes.txt": 90.0,
    }
    found = names.orphans(ages, [used], "demo", 60)
    assert found == [f"x-machine-demo-{digits['a']}.k1.part.0{n}" for n in (0, 1)]
