"""The boot check on real guests: a sound triple passes, each defect fails its own assertion."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.checks import Triple, VerifyReport
from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.verify import assertion_names, verify
from tests.fixtures import triples

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

TCG = Acceleration("tcg", "tests")
MINUTES = 10
KEYS = "/root/.ssh/authorized_keys"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> triples.Files:
    return triples.busybox_triple(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Runner(tmp_path / "commands.log") as run:
        yield Tools(run, QuietProgress(), scratch)


def check(files: triples.Files, tools: Tools) -> VerifyReport:
    line = "root=LABEL=uec-rootfs ro console=tty0 console=ttyS0"
    report = verify(
        Triple(files.machine, files.kernel, files.ramdisk, line),
        acceleration=TCG,
        minutes_per_boot=MINUTES,
        evidence=tools.scratch.parent / "evidence",
        tools=tools,
    )
    assert not list(tools.scratch.iterdir()), "overlays are left"
    return report


def failed(report: VerifyReport) -> list[str]:
    return [assertion.name for assertion in report.failures]


def sabotaged(
    sound: triples.Files, directory: Path, change: Callable[[Path], None]
) -> triples.Files:
    """The sound triple with a change made to a copy of its root directory."""
    root = directory / "root"
    shutil.copytree(sound.machine.parent / "root", root, symlinks=True)
    change(root)
    return replace(sound, machine=triples.root_image(root, directory / "root.img"))


def test_a_sound_triple_passes(sound: triples.Files, tools: Tools) -> None:
    before = sound.machine.read_bytes()
    report = check(sound, tools)
    assert failed(report) == []
    assert report.passed
    assert all(assertion.reached for assertion in report.assertions)
    assert report.seconds_to_ssh is not None
    assert report.seconds_to_ssh > 1
    assert set(report.boot_seconds) == {"first", "again", "other", "bare"}
    assert sound.machine.read_bytes() == before, "the image was written"
    console = (tools.scratch.parent / "evidence/first-console.log").read_text(errors="replace")
    assert "root=/dev/vda console=tty0 console=ttyS0" in console
    log = (tools.scratch.parent / "evidence/other-metadata.log").read_text()
    assert "503" in log
    assert "with token" in log


def test_wrong_label(sound: triples.Files, tmp_path: Path, tools: Tools) -> None:
    root = sabotaged(sound, tmp_path / "r", fstab("/dev/vda / ext4 defaults 0 0"))
    subprocess.run(["/sbin/tune2fs", "-L", "another", root.machine], check=True, timeout=60)
    report = check(root, tools)
    assert failed(report) == [assertion_names.ROOT_AS_RECORDED]
    passed = {a.name for a in report.assertions if a.passed}
    assert assertion_names.ROOT_BY_DEVICE in passed
    assert any("LABEL=uec-rootfs does not exist" in line for line in report.console_lines)
    picture = tools.scratch.parent / "evidence/other-screen.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def fstab(line: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / "etc/fstab").write_text(line + "\n")

    return change


def test_initramfs_without_virtio_blk(sound: triples.Files, tmp_path: Path, tools: Tools) -> None:
    ramdisk = triples.ramdisk(tmp_path / "i", tmp_path / "initrd", leave_out=("virtio_blk",))
    report = check(replace(sound, ramdisk=ramdisk), tools)
    assert failed(report) == [assertion_names.ROOT_BY_DEVICE, assertion_names.ROOT_AS_RECORDED]


def test_kernel_of_another_version(sound: triples.Files, tools: Tools) -> None:
    report = check(replace(sound, kernel=triples.other_kernel()), tools)
    assert failed(report)[0] == assertion_names.MODULES
    assert assertion_names.ROOT_BY_DEVICE in failed(report)


def test_modules_of_another_version(sound: triples.Files, tmp_path: Path, tools: Tools) -> None:
    def change(root: Path) -> None:
        # The running kernel's own modules go on being found under their full path.
        modules = root / "lib/modules"
        kept = next(modules.iterdir())
        shutil.copytree(kept, root / "lib/kept")
        kept.rename(modules / "6.1.0-1-other")
        script = root / "etc/init.d/rcS"
        loading = "for f in failover net_failover virtio_net evdev button; do"
        text = script.read_text().replace(
            'for module in net_failover virtio_net evdev button; do modprobe "$module"; done',
            f"{loading} insmod $(find /lib/kept -name $f.ko); done",
        )
        assert loading in text
        script.write_text(text)

    report = check(sabotaged(sound, tmp_path / "r", change), tools)
    assert failed(report) == [assertion_names.MODULES]
    assert "6.1.0-1-other" in report.failures[0].detail


def test_old_swap_line(sound: triples.Files, tmp_path: Path, tools: Tools) -> None:
    line = "LABEL=uec-rootfs / ext4 defaults 0 0\n/dev/VolGroup/lv_swap swap swap defaults 0 0"
    report = check(sabotaged(sound, tmp_path / "r", fstab(line)), tools)
    assert failed(report) == [assertion_names.FSTAB]
    assert "lv_swap" in report.failures[0].detail


def test_key_script_not_executable(sound: triples.Files, tmp_path: Path, tools: Tools) -> None:
    def change(root: Path) -> None:
        (root / "etc/rc.local").chmod(0o644)

    report = check(sabotaged(sound, tmp_path / "r", change), tools)
    assert failed(report) == [assertion_names.KEY, assertion_names.KEY_BY_TOKEN]
    assert "never asked" in report.failures[0].detail


def test_script_that_duplicates_keys(sound: triples.Files, tmp_path: Path, tools: Tools) -> None:
    def change(root: Path) -> None:
        with (root / "etc/rc.local").open("a") as script:
            script.write(f'\nkey=$(tail -n 1 {KEYS})\necho "$key" >>{KEYS}\n')

    report = check(sabotaged(sound, tmp_path / "r", change), tools)
    assert failed(report) == [assertion_names.KEY_ONCE, assertion_names.SAME_KEYS]


def test_truncated_root(sound: triples.Files, tmp_path: Path, tools: Tools) -> None:
    image = tmp_path / "root.img"
    shutil.copy(sound.machine, image)
    os.truncate(image, image.stat().st_size // 2)
    report = check(replace(sound, machine=image), tools)
    assert failed(report)[0] == assertion_names.ROOT_BY_DEVICE
    assert any("bad geometry" in line for line in report.console_lines)


def test_corrupted_initramfs(sound: triples.Files, tmp_path: Path, tools: Tools) -> None:
    archive = gzip.decompress(sound.ramdisk.read_bytes())
    # Damage at any place inflates to other bytes as often as not, and the kernel then complains of
    # nothing if they are a module's; a block of the reserved type (RFC 1951, 3.2.3) is an error.
    stream = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    half = stream.compress(archive[: len(archive) // 2]) + stream.flush(zlib.Z_FULL_FLUSH)
    (tmp_path / "initrd").write_bytes(half + b"\x06" * 4096)
    report = check(replace(sound, ramdisk=tmp_path / "initrd"), tools)
    assert failed(report)[0] == assertion_names.RAMDISK


def test_three_defects_are_told_apart(sound: triples.Files, tmp_path: Path, tools: Tools) -> None:
    """A shipped host key, loose modes, and a reboot in place of a power-off."""

    def change(root: Path) -> None:
        key = root / "etc/dropbear/dropbear_ed25519_host_key"
        subprocess.run(["dropbearkey", "-t", "ed25519", "-f", key], check=True, capture_output=True)
        with (root / "etc/rc.local").open("a") as script:
            script.write(f"\nchmod 0644 {KEYS}\n")
        (root / "etc/acpi/PWRF/00000080").write_text("#!/bin/sh\nreboot -f\n")

    report = check(sabotaged(sound, tmp_path / "r", change), tools)
    assert failed(report) == [
        assertion_names.KEY_MODES,
        assertion_names.FRESH_HOST_KEYS,
        assertion_names.POWER_OFF,
    ]
    modes, host_keys, power_off = report.failures
    assert "-rw-r--r--" in modes.detail
    assert "ssh-ed25519" in host_keys.detail
    assert "guest-reset" in power_off.detail
