from typing import Any

import pytest

from pipeline.builders.installer import errors
from pipeline.builders.installer.console_patterns import ANACONDA, DEBIAN, PROFILES, STAND_IN
from pipeline.builders.installer.preseed import DONE, FAILED, STARTED
from pipeline.builders.installer.watch import Judge, Limits

NONCE = "n0nce" * 5
LIMITS = Limits(wall=1000, quiet=100, first_sign=50, settle=2)
SHUT_DOWN = {"event": "exit", "code": 0, "state": 5, "reason": 1}
RUNNING = {"event": "lifecycle", "kind": 2, "detail": 0}


def judge(*lines: str, now: float = 1.0) -> Judge:
    made = Judge(STAND_IN, NONCE, LIMITS, 0.0)
    made.event(RUNNING, 0.0)
    made.hear(lines, now)
    return made


def finished(*lines: str) -> Judge:
    return judge(f"{STARTED} {NONCE}", *lines, f"{DONE} {NONCE}")


def test_success_is_nonce_then_power_off() -> None:
    assert finished().end(SHUT_DOWN, "") is None


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({"reason": 2}, errors.GuestKilledError),
        ({"reason": 3}, errors.GuestKilledError),
        ({"code": 1}, errors.LibvirtLostError),
        ({"state": 1}, errors.LibvirtLostError),
        ({"state": None, "reason": None}, errors.LibvirtLostError),
    ],
)
def test_a_nonce_alone_is_no_success(facts: dict[str, Any], kind: type[Exception]) -> None:
    verdict = finished().end({**SHUT_DOWN, **facts}, "")
    assert verdict is not None
    assert verdict.kind is kind


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([], errors.AnswersUnreadError),
        ([f"{STARTED} {NONCE}"], errors.AbortedError),
        ([f"{DONE} another-nonce"], errors.AnswersUnreadError),
        ([f"{STARTED} {NONCE}", f"{DONE} n0nce"], errors.AbortedError),
        ([f"{STARTED} {NONCE}", f"{FAILED} {NONCE}"], errors.FatalMessageError),
        (["installer: FATAL: no space"], errors.FatalMessageError),
        (["[ 1.0] Kernel panic - not syncing: x"], errors.PanicError),
        (["installer: FATAL: x", "Kernel panic - not syncing: y"], errors.PanicError),
    ],
)
def test_a_power_off_without_the_nonce(lines: list[str], kind: type[Exception]) -> None:
    verdict = judge(*lines).end(SHUT_DOWN, "")
    assert verdict is not None
    assert verdict.kind is kind


def test_a_fatal_line_after_the_nonce_is_no_success() -> None:
    verdict = judge(f"{DONE} {NONCE}", "Kernel panic - not syncing").end(SHUT_DOWN, "")
    assert verdict is not None
    assert verdict.kind is errors.PanicError


@pytest.mark.parametrize(
    ("detail", "kind"), [(0, None), (1, errors.GuestKilledError), (2, errors.GuestKilledError)]
)
def test_a_guest_that_ended_before_virt_install_had_defined_it(
    detail: int, kind: type[Exception] | None
) -> None:
    made = finished()
    made.event({"event": "lifecycle", "kind": 5, "detail": detail}, 2.0)
    verdict = made.end({**SHUT_DOWN, "reason": 0}, "")
    assert (verdict and verdict.kind) is kind


@pytest.mark.parametrize(("detail", "kind"), [(1, None), (2, errors.GuestKilledError)])
def test_a_polite_signal_to_qemu_looks_like_a_power_off(
    detail: int, kind: type[Exception] | None
) -> None:
    made = finished()
    made.event({"event": "lifecycle", "kind": 6, "detail": detail}, 2.0)
    verdict = made.end(SHUT_DOWN, "")
    assert (verdict and verdict.kind) is kind


def test_virt_install_that_never_started_a_guest() -> None:
    made = Judge(STAND_IN, NONCE, LIMITS, 0.0)
    verdict = made.end({"event": "exit", "code": 1, "state": None, "reason": None}, "")
    assert verdict is not None
    assert verdict.kind is errors.VirtInstallError


def test_a_dead_virt_install_and_a_dead_daemon() -> None:
    for exit_event in (None, SHUT_DOWN):
        verdict = finished().end(exit_event, "libvirtd")
        assert verdict is not None
        assert verdict.kind is errors.LibvirtLostError
        assert "libvirtd" in verdict.why


def test_a_fatal_line_settles_before_the_guest_is_given_up() -> None:
    made = judge("before", "installer: FATAL: no", now=10.0)
    assert made.verdict(11.0) is None
    made.hear(["after"], 11.0)
    verdict = made.verdict(12.0)
    assert verdict is not None
    assert verdict.lines == ("before", "installer: FATAL: no", "after")


def test_silence_is_a_hang() -> None:
    made = judge("hello", now=10.0)
    assert made.verdict(109.0) is None
    verdict = made.verdict(110.0)
    assert verdict is not None
    assert verdict.kind is errors.HangError


def test_a_clock_is_no_sign_of_life() -> None:
    made = Judge(DEBIAN, NONCE, LIMITS, 0.0)
    made.hear(["Partition disks"], 10.0)
    for minute in range(1, 3):
        line = f"[        (1*installer)  2 shell  3 shell  4- log        ][ Nov 21  6:3{minute} ]"
        made.hear([line, ""], 10.0 + 40 * minute)
        made.glimpse(line, 10.0 + 41 * minute)
    verdict = made.verdict(110.0)
    assert verdict is not None
    assert verdict.kind is errors.HangError


def test_a_progress_bar_is_a_sign_of_life() -> None:
    made = judge("hello", now=10.0)
    made.glimpse("Retrieving ... 25%", 60.0)
    made.glimpse("Retrieving ... 25%", 90.0)
    assert made.verdict(159.0) is None
    verdict = made.verdict(160.0)
    assert verdict is not None
    assert verdict.kind is errors.HangError


@pytest.mark.parametrize("sign", [(1, None), (None, 5), (0, 0)])
def test_disk_or_network_activity_is_no_hang(sign: tuple[object, object]) -> None:
    made = judge("hello", now=10.0)
    made.feel((None, None), 11.0)
    made.feel(sign, 100.0)
    made.feel(sign, 199.0)  # unchanged: no sign of life
    assert made.verdict(199.0) is None
    verdict = made.verdict(200.0)
    assert verdict is not None
    assert verdict.kind is errors.HangError


def test_a_guest_that_never_says_anything() -> None:
    made = Judge(STAND_IN, NONCE, LIMITS, 0.0)
    made.feel(1, 49.0)
    assert made.verdict(50.0) is None  # it may still be unpacking: qemu has not started
    made.event(RUNNING, 1.0)
    verdict = made.verdict(50.0)
    assert verdict is not None
    assert verdict.kind is errors.HangError
    assert "IMAGE_PIPELINE_ACCEL" in verdict.advice


def test_the_wall_clock() -> None:
    made = judge("installer: Formatting", now=999.0)
    verdict = made.verdict(1000.0)
    assert verdict is not None
    assert verdict.kind is errors.TimeLimitError
    assert "Formatting" in verdict.why


def test_a_reboot_loop() -> None:
    line = "[    0.000000] Linux version 6.1.0"
    assert judge(*[line] * 3).verdict(1.0) is None
    verdict = judge(*[line] * 4).verdict(1.0)
    assert verdict is not None
    assert verdict.kind is errors.RebootLoopError


@pytest.mark.parametrize(
    ("event", "kind", "word"),
    [
        ({"event": "io-error", "reason": "enospc"}, errors.DiskSpaceError, "full"),
        ({"event": "io-error", "reason": "eio"}, errors.DiskSpaceError, "eio"),
        ({"event": "state", "state": 3, "reason": 5}, errors.DiskSpaceError, "disk image"),
        ({"event": "lifecycle", "kind": 8, "detail": 0}, errors.PanicError, "panic"),
        ({"event": "state", "state": 6, "reason": 0}, errors.PanicError, "panic"),
    ],
)
def test_what_libvirt_reports(event: dict[str, Any], kind: type[Exception], word: str) -> None:
    made = judge("hello")
    made.event(event, 2.0)
    verdict = made.verdict(5.0)
    assert verdict is not None
    assert verdict.kind is kind
    assert word in verdict.why


def test_phases_are_timed() -> None:
    made = judge("installer: Partitioning", now=5.0)
    made.hear(["installer: Partitioning", "installer: Formatting"], 7.0)
    assert made.phases == [(5.0, "Partitioning"), (7.0, "Formatting")]
    assert made.phase == "Formatting"


@pytest.mark.parametrize(
    "line",
    [
        "dracut: FATAL: No or empty root= argument",
        "Entering emergency mode. Exit the shell to continue.",
        "Traceback (most recent call last):",
        "Unable to read package metadata. This may be due to a missing repodata directory.",
        "Could not allocate requested partitions: not enough free space on disks",
        "The following problem occurred on line 12 of the kickstart file:",
    ],
)
def test_anaconda_gives_up(line: str) -> None:
    assert ANACONDA.is_fatal(line)


@pytest.mark.parametrize(
    "line",
    [
        "[!!] Install the GRUB boot loader: GRUB installation failed",
        "An installation step failed. You can try to run the failing item again from the menu,",
        'Execution of preseeded command "false" failed with exit code 1.',
        "Bad archive mirror",
        "!! ERROR: Software RAID not available",
        "No kernel modules were found. This probably is due to a mismatch",
    ],
)
def test_debian_gives_up(line: str) -> None:
    assert DEBIAN.is_fatal(line)


@pytest.mark.parametrize("name", sorted(PROFILES))
@pytest.mark.parametrize(
    "line",
    [
        "[    0.5] ACPI Error: AE_NOT_FOUND, while resolving a named reference",
        "[    1.2] platform regulatory.0: Direct firmware load for regulatory.db failed",
        "[    1.3] systemd[1]: Failed to find module 'autofs4'",
        "Setting up openssh-server (1:10.0p1) ...",
        "installer: Formatting",
        "EXT4-fs (dm-0): mounted filesystem without journal.",
        "dpkg: warning: failed to open configuration file '/root/.dpkg.cfg'",
    ],
)
def test_ordinary_noise_is_not_fatal(name: str, line: str) -> None:
    assert not PROFILES[name].is_fatal(line)


def test_a_failure_names_evidence_and_advice(tmp_path: Any) -> None:
    failure = errors.HangError(
        "box", "it hangs", evidence=[tmp_path / "a.log"], lines=["x", "", "y"]
    )
    text = str(failure)
    assert text.startswith("Cannot install box: it hangs; the console said: x | y.")
    assert str(tmp_path / "a.log") in text
    assert "quiet_minutes" in text
