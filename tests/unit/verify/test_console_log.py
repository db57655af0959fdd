"""The console's reader: signs of trouble, prompts, bounds against a hostile guest."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.verify import assertion_names
from pipeline.verify.console_log import Transcript

CALM = b"""[    0.000000] Linux version 6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org)\r
[    0.000000] Command line: root=/dev/vda console=tty0 console=ttyS0\r
[    1.000000] systemd[1]: Starting Load Kernel Module fuse...\r
[  \x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mLocal File Systems\x1b[0m.\r
[  \x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mSwaps\x1b[0m.\r
[    2.000000] EXT4-fs (vda): mounted filesystem with ordered data mode. Quota mode: none.\r
[    3.000000] end_request: I/O error, dev fd0, sector 0\r
[   ***  ] A start job is running for Raise network interfaces (5s / 5min 1s)\r
[   ***  ] A start job is running for /etc/rc.local Compatibility (12s / no limit)\r
M[\x1b[0m\x1b[0;31m*     \x1b[0m] A start job is running for /dev/ttyS0 (1min 2s / 1min 30s)\r
M[\x1b[K[\x1b[0;1;33m TIME \x1b[0m] Timed out waiting for device dev-ttyS0.device - /dev/ttyS0.\r
[DEPEND] Dependency failed for serial-getty@ttyS0.service - Serial Getty on ttyS0.\r
/bin/sh: can't access tty; job control turned off\r
localhost login: """


def heard(tmp_path: Path, *pieces: bytes) -> Transcript:
    with contextlib.closing(Transcript(tmp_path / "log")) as transcript:
        for piece in pieces:
            transcript.feed(piece)
    return transcript


def test_a_calm_boot_has_no_signs(tmp_path: Path) -> None:
    calm = heard(tmp_path, CALM)
    assert calm.signs == ()
    assert calm.began
    assert calm.prompted
    assert (tmp_path / "log").read_bytes() == CALM


@pytest.mark.parametrize(
    ("line", "assertion", "final"),
    [
        ("[ 1.0] Initramfs unpacking failed: invalid magic", assertion_names.RAMDISK, False),
        (
            "[ 4.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block",
            assertion_names.ROOT,
            True,
        ),
        ("[ 4.1] Kernel panic - not syncing: Attempted to kill init!", assertion_names.PANIC, True),
        (
            "ALERT!  LABEL=uec-rootfs does not exist.  Dropping to a shell!",
            assertion_names.ROOT,
            True,
        ),
        ("(initramfs) ", assertion_names.ROOT, True),
        ("dracut:/# ", assertion_names.ROOT, True),
        ("dracut Warning: Could not boot.", assertion_names.ROOT, True),
        (
            "[ 2.0] EXT4-fs (vda): bad geometry: block count 12 exceeds size",
            assertion_names.ROOT,
            False,
        ),
        (
            "virtio_blk: version magic '6.1.0-1 SMP' should be '6.1.0-2 SMP'",
            assertion_names.MODULES,
            False,
        ),
        ("virtio: disagrees about version of symbol module_layout", assertion_names.MODULES, False),
        (
            "modprobe: FATAL: Module virtio_blk not found in directory /lib/modules/6.1",
            assertion_names.MODULES,
            False,
        ),
        ("You are in emergency mode. After logging in, type", assertion_names.FSTAB, True),
        (
            "[ ***] A start job is running for /dev/mapper/VolGroup-lv_swap (9s / 1min 30s)",
            assertion_names.FSTAB,
            True,
        ),
        (
            "[ ***] A start job is running for dev-mapper-VolGroup.device (9s / 1min 30s)",
            assertion_names.FSTAB,
            True,
        ),
        (
            "[ TIME ] Timed out waiting for device /dev/VolGroup/lv_swap.",
            assertion_names.FSTAB,
            False,
        ),
        ("[DEPEND] Dependency failed for /boot.", assertion_names.FSTAB, False),
        ("[FAILED] Failed to mount /boot.", assertion_names.FSTAB, False),
        ("[FAILED] Failed to mount boot.mount - /boot.", assertion_names.FSTAB, False),
        ("swapon: /dev/VolGroup/lv_swap: No such file or directory", assertion_names.FSTAB, False),
        ("[ 9.0] BUG: unable to handle page fault for address", assertion_names.PANIC, False),
        ("[ 9.0] Oops: 0002 [#1] SMP", assertion_names.PANIC, False),
        (
            "[ 9.0] INFO: task jbd2/vda-8:120 blocked for more than 120 seconds.",
            assertion_names.PANIC,
            False,
        ),
        ("[ 9.0] blk_update_request: I/O error, dev vda, sector 2048", assertion_names.IO, False),
        ("[ 9.0] EXT4-fs error (device vda): ext4_lookup:1849", assertion_names.IO, False),
        ("[FAILED] Failed to start OpenBSD Secure Shell server.", assertion_names.INIT, False),
        ("can't run '/etc/init.d/rcS': Permission denied", assertion_names.INIT, False),
    ],
)
def test_signs(tmp_path: Path, line: str, assertion: str, final: bool) -> None:
    found = heard(tmp_path, CALM, b"\r\n" + line.encode() + b"\r\n").signs
    assert [(sign.assertion, sign.final) for sign in found] == [(assertion, final)]
    assert found[0].line == line.rstrip()


def test_a_prompt_without_a_line_end_is_seen_once(tmp_path: Path) -> None:
    transcript = heard(tmp_path, b"(initr", b"amfs) ", b"help", b"\r\nmore\r\n")
    assert [sign.final for sign in transcript.signs] == [True]


@given(st.lists(st.integers(1, 40), max_size=20))
def test_signs_do_not_depend_on_how_the_bytes_arrive(cuts: list[int]) -> None:
    text = b"one\r\n[FAILED] Failed to start x.\r\n[ 1.0] Oops: 1\r\nlogin: "
    position = 0
    with contextlib.closing(Transcript(Path("/dev/null"))) as transcript:
        for cut in [*cuts, len(text)]:
            transcript.feed(text[position : position + cut])
            position += cut
    assert [sign.assertion for sign in transcript.signs] == [
        assertion_names.INIT,
        assertion_names.PANIC,
    ]
    assert transcript.prompted


def test_a_guest_cannot_fill_disk_memory_or_terminal(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "log")
    for _ in range(20):
        transcript.feed(b"\x1b[2J\x07" + b"x" * (1 << 20))
    transcript.feed(b"\n\x1b]0;title\x07y\n" * 10)
    transcript.feed(b"[FAILED] Failed to start a\n" * 5000)
    transcript.close()
    assert (tmp_path / "log").stat().st_size == 8 << 20
    assert len(transcript.signs) == 200
    assert len(transcript.tail) == 40
    assert all(len(line) <= 400 and line.isprintable() for line in transcript.tail)


def test_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """The serial port cuts where it likes: "Failed to m" is not what failed to start."""
    console = heard(tmp_path, b"[FAILED] Failed to m", b"ount srv-x.mo", b"unt - /srv/x.\r\n")
    assert [(sign.assertion, sign.line) for sign in console.signs] == [
        (assertion_names.FSTAB, "[FAILED] Failed to mount srv-x.mount - /srv/x.")
    ]
