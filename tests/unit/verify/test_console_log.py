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
M[\x1b[0m\x1b[0;31m*     \x1b[0m] Job dev-ttyS0.device/start running (1min 2s / 1min 30s)\r
[*     ] (1 of 2) Job dev-vda.device/start running (7s / no limit)\r
[*     ] Job dev-disk-by\\x2dlabel-u\xe2\x80\xa6ice/start running (31s / no limit)\r
[*     ] (1 of 2) A start job is running for /dev/vda (59s / 1min 30s)\r
[*     ] (2 of 3) Job ssh-host-keys.service/start running (59s / no limit)\r
[*     ] Job dev-hugepages.mount/start running (1min 1s / 1min 30s)\r
[*     ] Job dev-disk-by\\x2dpartuuid-01234567\\x2d89ab...ap/start running (1min / 1min 30s)\r
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
            "[ ***] A start job is running for /dev/mapper/VolGroup-lv_swap (1min 1s / 1min 30s)",
            assertion_names.FSTAB,
            True,
        ),
        (
            "[ ***] A start job is running for dev-mapper-VolGroup.device (1min / 1min 30s)",
            assertion_names.FSTAB,
            True,
        ),
        (
            "[ TIME ] Timed out waiting for device /dev/VolGroup/lv_swap.",
            assertion_names.FSTAB,
            False,
        ),
        ("Job dev-mapper-old.device/start timed out.", assertion_names.FSTAB, False),
        ("[FAILED] Failed to mount sysroot.mount - /sysroot.", assertion_names.ROOT, True),
        ("[FAILED] Failed to mount /sysroot.", assertion_names.ROOT, True),
        ("[DEPEND] Dependency failed for sysroot.mount - /sysroot.", assertion_names.ROOT, True),
        (
            "[DEPEND] Dependency failed for initrd-root-fs.target - Initrd Root File System.",
            assertion_names.ROOT,
            True,
        ),
        ("[DEPEND] Dependency failed for Initrd Default Target.", assertion_names.ROOT, True),
        ("[DEPEND] Dependency failed for boot.mount - /boot.", assertion_names.FSTAB, False),
        ("[DEPEND] Dependency failed for boot.mount.", assertion_names.FSTAB, False),
        (
            "[DEPEND] Dependency failed for local-fs.target - Local File Systems.",
            assertion_names.FSTAB,
            False,
        ),
        ("[DEPEND] Dependency failed for Local File Systems.", assertion_names.FSTAB, False),
        ("[DEPEND] Dependency failed for dev-vda2.swap - Swap.", assertion_names.FSTAB, False),
        ("[  OK  ] Reached target emergency.target - Emergency Mode.", assertion_names.FSTAB, True),
        ("[  OK  ] Reached target Emergency Mode.", assertion_names.FSTAB, True),
        (
            "Cannot open access to console, the root account is locked.",
            assertion_names.FSTAB,
            True,
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
    assert found[0].line.startswith(line.rstrip())


@pytest.mark.parametrize(
    ("words", "device"),
    [
        (r"Job dev-mapper-vg\x2dswap.device/start running", "/dev/mapper/vg-swap"),
        (r"Job dev-disk-by\x2dlabel-nosuch.dev...tart running", "/dev/disk/by-label/nosuch"),
        (r"Job dev-disk-by\x2dlabel-nosuch.dev…tart running", "/dev/disk/by-label/nosuch"),
        (r"(2 of 3) Job dev-disk-by\x2duuid-0123...e/start running", "/dev/disk/by-uuid/0123"),
        (r"Job dev-disk-by\x2duuid-ab\x...e/start running", "/dev/disk/by-uuid/ab"),
        ("A start job is running for /dev/disk/by-label/nosuch", "/dev/disk/by-label/nosuch"),
        (r"A start job is running for dev-vg-a\x2db.device", "dev-vg-a"),
    ],
)
@pytest.mark.parametrize("time", ["1min", "1min 1s", "1min 33s", "2h 4min"])
@pytest.mark.parametrize(
    ("limit", "assertion"),
    [("1min 30s", assertion_names.FSTAB), ("no limit", assertion_names.ROOT)],
)
def test_a_wait_for_a_device_ends_the_boot_and_names_it(
    tmp_path: Path, words: str, device: str, time: str, limit: str, assertion: str
) -> None:
    """systemd says it by description or by name, cut in the middle on a narrow console."""
    line = f"M\x1b[K[\x1b[0;31m*     \x1b[0m] {words} ({time} / {limit})\r\n"
    (sign,) = heard(tmp_path, CALM, b"\r\n", line.encode()).signs
    assert (sign.assertion, sign.final) == (assertion, True)
    assert device in sign.line


@pytest.mark.parametrize(
    "told",
    [
        rb"Expecting device dev-disk-by\x2dlabel-nosuch.device - /dev/disk/by-label/nosuch...",
        b"         Expecting device /dev/disk/by-label/nosuch...",
    ],
)
def test_a_device_whose_name_is_cut_was_told_in_full_before(tmp_path: Path, told: bytes) -> None:
    line = rb"(2 of 2) Job dev-disk-by\x2dlabel-n\xe2\x80\xa6start running (1min 2s / no limit)"
    line = line.replace(rb"\xe2\x80\xa6", "…".encode())
    other = b"\r\nExpecting device dev-vda.device - /dev/vda...\r\n"
    (sign,) = heard(tmp_path, other, told, b"\r\n", line, b"\r\n").signs
    assert sign.line.endswith("[/dev/disk/by-label/nosuch]")


@pytest.mark.parametrize(
    "banner", ["Booting initrd of Debian (Initramfs).", "systemd[1]: Running in initrd."]
)
def test_what_dracuts_systemd_lacks_is_the_root(tmp_path: Path, banner: str) -> None:
    wait = b"[*] Job dev-vda.device/start running (1min 1s / 1min 30s)\r\n"
    emergency = b"You are in emergency mode. After logging in, type\r\n"
    for trouble in (wait, emergency):
        (sign,) = heard(tmp_path, banner.encode(), b"\r\n", trouble).signs
        assert (sign.assertion, sign.final) == (assertion_names.ROOT, True)
        switched = b"\r\nReached target initrd-switch-root.target - Switch Root.\r\n"
        (sign,) = heard(tmp_path, banner.encode(), switched, trouble).signs
        assert (sign.assertion, sign.final) == (assertion_names.FSTAB, True)


# As the console of Debian 14 has them, on either side of what is to be read.
SEQUENCES = (
    b"\x1b]3008;start=2b60f6cf;user=root;hostname=localhost;machineid=1b4223b2;pid=1\x1b\\",
    b"\x1b]3008;end=2b60f6cf\x07",
    b"\x1b]104\x1b\\",
    b"\x1b]0;title\x07",
    b"\x1b[!p",
    b"\x1b[?7h\x1b[1G\x1b[0J",
    b"\x1b7\x1b[32766;32766H\x1b[6n\x1b8",
    b"\x1bP+q6E616D65\x1b\\",
    b"\x1b[0;1;38:5:185m",
    b"\x1b(B\x1b#8\x1b=\x1bc",
    b"\x1b_application\x1b\\\x1b^private\x1b\\",
)


@pytest.mark.parametrize("sequence", [*SEQUENCES, b"".join(SEQUENCES)])
@pytest.mark.parametrize(
    "text", [b"(initramfs) ", b"dracut:/# ", b"mount: /boot: can't find x", b"localhost login: "]
)
def test_control_sequences_hide_nothing(tmp_path: Path, sequence: bytes, text: bytes) -> None:
    for line in (sequence + text + sequence, text[:3] + sequence + text[3:]):
        found = heard(tmp_path, b"\r\n", line)
        assert found.tail[-1] == text.decode().rstrip()
        assert len(found.signs) + found.prompted == 1


def test_a_line_that_comes_in_pieces_is_told_whole(tmp_path: Path) -> None:
    found = heard(tmp_path, b"[FAILED] Failed to st", b"art ssh.ser", b"vice.\r\nOops\r\n")
    assert [sign.line for sign in found.signs] == ["[FAILED] Failed to start ssh.service."]
    mount = heard(tmp_path, b"[FAILED] Failed to mo", b"unt boot.mount.\n")
    assert [sign.assertion for sign in mount.signs] == [assertion_names.FSTAB]


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_sequence_may_come_in_two_pieces(tmp_path: Path, sequence: bytes) -> None:
    """Neither the line that is still to end nor the whole one shows a part of it."""
    for cut in range(len(sequence) + 1):
        log = tmp_path / "log"
        with contextlib.closing(Transcript(log)) as transcript:
            transcript.feed(b"\r\nlocalhost login: " + sequence[:cut])
            assert transcript.prompted
            assert transcript.signs == ()
            transcript.feed(sequence[cut:] + b"\r\n(initramfs) \r\n")
        assert transcript.tail == ("localhost login:", "(initramfs)")
        assert len(transcript.signs) == 1


def test_a_control_string_without_an_end_hides_its_line_only(tmp_path: Path) -> None:
    found = heard(tmp_path, b"\x1b]3008;start=1\n(initramfs) \n")
    assert found.tail == ("(initramfs)",)
    assert len(found.signs) == 1


def test_a_prompt_without_a_line_end_is_seen_once(tmp_path: Path) -> None:
    transcript = heard(tmp_path, b"(initr", b"amfs) ", b"help", b"\r\nmore\r\n")
    assert [sign.final for sign in transcript.signs] == [True]


@given(st.lists(st.integers(1, 40), max_size=20))
def test_signs_do_not_depend_on_how_the_bytes_arrive(cuts: list[int]) -> None:
    text = b"one\r\n\x1b]3008;a=(initramfs)\x1b\\[FAILED] Failed to start x.\r\n"
    text += b"[ 1.0] Oops: 1\r\n\x1b[!plogin: "
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
