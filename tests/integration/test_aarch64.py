"""Debian for arm64: its real kernels, and a whole build that is booted and registered.

The build takes half an hour without KVM, most of it the root that mmdebstrap makes under emulation;
where no arm64 root can be made (qemu-user-static, arch-test, Linux 6.7), it is skipped.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.builders.recipes import choose_recipe, load_recipes
from pipeline.builds.manifest import Manifest, read_manifest
from pipeline.catalogue.lookup import local_files
from pipeline.cli.console import PlainProgress
from pipeline.clouds.aws.ebs_backed import open_ebs
from pipeline.clouds.local import open_local
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.errors import GuestError
from pipeline.core.events import QuietProgress
from pipeline.core.request import BuildRequest
from pipeline.core.secrets import Secrets
from pipeline.guest.boot.kernel_image import read_kernel, unpack
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.workflows.build import build
from tests.fakes.server import running
from tests.fixtures.boot_files import zboot
from tests.fixtures.disks.debian_arm64 import arm64_disk, arm64_kernel

pytestmark = pytest.mark.integration

RECIPES = """
[arm64]
description = "Debian 12 for arm64, from a disk that is given"
answers = "none.ks"
release = "F15"
architecture = "aarch64"
command_line = "root=LABEL=uec-rootfs ro net.ifnames=0 console=tty0 console=ttyAMA0"
verify_minutes = 40
disk_image = true

[x86]
description = "The same disk in a recipe that does not say so"
answers = "none.ks"
release = "F15"
"""
ROOM = ("mmdebstrap", "arch-test", "qemu-system-aarch64")


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner() as run:
        yield Tools(run, QuietProgress(), tmp_path / "scratch")


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_debians_kernels_are_plain_images_and_any_form_of_them_is_read(
    suite: str, tmp_path: Path, tools: Tools
) -> None:
    kernel = arm64_kernel(suite, tmp_path / "apt")
    version = kernel.name.removeprefix("vmlinuz-")
    found = read_kernel(kernel, tools)
    assert (found.release, found.architecture, found.form) == (version, "aarch64", "Image")
    image = kernel.read_bytes()
    for data, form in ((gzip.compress(image, 1), "Image.gz"), (zboot(image, "zstd"), "EFI zboot")):
        packed = tmp_path / "packed"
        packed.write_bytes(data)
        again = read_kernel(packed, tools)
        assert (again.release, again.form) == (version, form)
        unpack(again, packed, tmp_path / "out", tools)
        assert (tmp_path / "out").read_bytes() == image
    packed.write_bytes(image[: len(image) // 2])
    with pytest.raises(GuestError, match="bytes that its header counts"):
        read_kernel(packed, tools)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_a_disk_of_debian_for_arm64_to_registered_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = [name for name in ROOM if shutil.which(name) is None]
    if lacking or not Path("/usr/lib/binfmt.d/qemu-aarch64.conf").exists():
        pytest.skip(f"arm64 cannot be run here: {', '.join(lacking) or 'no qemu-user-static'}")
    disk = arm64_disk(tmp_path)
    (tmp_path / "recipes.toml").write_text(RECIPES)
    (tmp_path / "none.ks").write_text("poweroff\n")
    monkeypatch.setenv("IMAGE_PIPELINE_BUILD", str(tmp_path / "build"))
    recipes = load_recipes(tmp_path / "recipes.toml")

    def made(name: str) -> Manifest:
        request = BuildRequest(recipe=choose_recipe(recipes, name), disk=disk)
        return build(request, PlainProgress(), Secrets())

    with pytest.raises(GuestError, match=r"for aarch64 \(Image\), and the recipe is for x86_64"):
        made("x86")
    manifest = made("arm64")
    assert manifest.boot.architecture == "aarch64"
    assert manifest.boot.kernel_version.endswith("-cloud-arm64")
    triple, whole = manifest.checks
    assert triple.passed
    assert whole.passed
    assert not [a for a in (*triple.assertions, *whole.assertions) if not a.passed]
    directory = tmp_path / "build" / "arm64"
    _systemd_is_heard(directory / "verify", ("first", "again", "other", "bare"))
    _systemd_is_heard(directory / "verify-disk", ("first", "again", "other"))
    _register(directory, tmp_path, monkeypatch)


def _systemd_is_heard(evidence: Path, boots: tuple[str, ...]) -> None:
    """Whether init's own words reach the console that is read, so that a failure would, too."""
    for boot in boots:
        text = (evidence / f"{boot}-console.log").read_text(errors="replace")
        assert "EFI stub: Booting Linux" in text or "efi: EFI v2" in text, boot
        assert len(re.findall(r"\[.{0,12}  OK  .{0,8}\]", text)) > 10, boot


def _register(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the local catalogue as arm64, and as a whole disk on the stand-in of EC2."""
    image = read_manifest(directory).image(directory)
    catalogue = tmp_path / "catalogue"
    local = open_local(str(catalogue)).publish(image, PublishOptions(), QuietProgress())
    monkeypatch.setenv("IMAGE_PIPELINE_CATALOGUE", str(catalogue))
    assert local_files(local.machine_id).architecture == "aarch64"
    with running() as standin:
        for name, value in standin.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("IMAGE_PIPELINE_CONFIG", str(tmp_path / "config"))
        registration = open_ebs("").publish(image, PublishOptions(whole_disk=True), QuietProgress())
        request = standin.ec2.images[registration.machine_id].request
        assert (request["Architecture"], request["BootMode"]) == ("arm64", "uefi")
