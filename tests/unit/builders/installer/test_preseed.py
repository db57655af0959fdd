"""Preseeds: late commands as they are, and disk layouts that cannot end in an image."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.builders.installer import preseed
from pipeline.builders.installer.answers import Answers
from tests.fixtures import answer_files
from tests.fixtures.answer_files import NONCE

POWER = "d-i debian-installer/exit/poweroff boolean true\n"
LAYOUT = "d-i partman-auto/method string lvm\n"


def rendered(tmp_path: Path, text: str) -> Answers:
    return answer_files.rendered(tmp_path, text, installer="debian-installer", release="")


def faults(tmp_path: Path, text: str) -> str:
    return answer_files.faults(tmp_path, text, installer="debian-installer", release="")


def run(tmp_path: Path, value: str, name: str = "preseed/late_command") -> tuple[int, str, str]:
    """Exit status, standard output and serial port of the command as the installer runs it."""
    text = rendered(tmp_path, f"d-i {name} string{value}\n{LAYOUT}{POWER}").text
    (command,) = [q.value for q in preseed.questions(text) if q.name == name]
    serial = tmp_path / "serial"
    serial.write_text("")
    # The serial port is opened anew by each command; a file must be appended to for that.
    command = command.replace(">/dev/ttyS0", f">>{serial}").replace("/var/log/syslog", "/dev/null")
    subprocess.run(["dash", "-n", "-c", command], check=True)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, serial.read_text()


@pytest.mark.parametrize(
    ("value", "out"),
    [
        ("", ""),
        (" ", ""),
        (" # nothing to do", ""),
        (" echo one # why", "one\n"),
        (" echo one; echo two;", "one\ntwo\n"),
        (" echo one \\\n  && echo two", "one\ntwo\n"),
        (" echo 'it is'; echo \"$((1 + 1))\"", "it is\n2\n"),
        (" echo ')'; echo \\(", ")\n(\n"),
        (" (echo one; exit 0) | cat", "one\n"),
        (" echo one & wait", "one\n"),
        (" true &", ""),
        (" case x in x) echo one;; esac", "one\n"),
        (" echo one; exit 0", "one\n"),
        (" echo o\\\nne", "one\n"),
        (" { echo one; }", "one\n"),
        (" false || echo one", "one\n"),
    ],
)
def test_late_commands_work_as_they_do_alone(value: str, out: str, tmp_path: Path) -> None:
    status, said, serial = run(tmp_path, value)
    assert (status, said) == (0, out)
    assert serial == f"\n{preseed.DONE} {NONCE}\n"


@pytest.mark.parametrize(
    "value", [" false", " exit 3", " echo (", " echo 'open", " if true; then", " true; false", " )"]
)
def test_late_commands_that_fail_are_told(value: str, tmp_path: Path) -> None:
    status, _, serial = run(tmp_path, value)
    assert status != 0
    assert serial == f"\n{preseed.FAILED} {NONCE}\n"


@pytest.mark.parametrize(("value", "out"), [("", ""), (" echo early # why", "early\n")])
def test_early_commands(value: str, out: str, tmp_path: Path) -> None:
    assert run(tmp_path, value, "preseed/early_command") == (
        0,
        out,
        f"\n{preseed.STARTED} {NONCE}\n",
    )


def test_an_early_command_that_cannot_be_parsed_hides_no_start(tmp_path: Path) -> None:
    status, _, serial = run(tmp_path, " echo (", "preseed/early_command")
    assert status != 0
    assert preseed.STARTED in serial


def test_a_late_command_that_is_given_twice_is_warned_of(tmp_path: Path) -> None:
    line = "d-i preseed/late_command string true\n"
    (warning,) = rendered(tmp_path, line + line + LAYOUT + POWER).warnings
    assert "given twice" in warning
    assert "(the other is a.ks line 2)" in warning


@pytest.mark.parametrize(
    "name", ["preseed/run", "preseed/include", "preseed/include_command", "preseed/url"]
)
def test_what_is_fetched_is_not_kept(name: str, tmp_path: Path) -> None:
    assert f"a.ks line 1: {name} would" in faults(tmp_path, f"d-i {name} string x.sh\n{POWER}")
    assert rendered(tmp_path, f"d-i {name} string\n{LAYOUT}{POWER}").warnings == ()


@pytest.mark.parametrize("name", ["partman-auto/disk", "grub-installer/bootdev"])
@pytest.mark.parametrize("disk", ["/dev/sda", "/dev/hda", "/dev/xvda", "/dev/nvme0n1", "/dev/vdb"])
def test_other_disks(name: str, disk: str, tmp_path: Path) -> None:
    said = faults(tmp_path, f"{LAYOUT}d-i {name} string {disk}\n{POWER}")
    assert f"1 fault: a.ks line 2: {name} names {disk}" in said
    assert "write /dev/vda" in said


@pytest.mark.parametrize("value", ["/dev/vda", "default"])
def test_the_machines_own_disk(value: str, tmp_path: Path) -> None:
    text = f"{LAYOUT}d-i grub-installer/bootdev string {value}\n{POWER}"
    assert rendered(tmp_path, text).warnings == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("d-i partman-auto/method string crypto", "encrypted"),
        ("d-i partman-auto/method string raid", "RAID"),
        (
            "d-i partman-auto/init_automatically_partition select "
            "Guided - use entire disk and set up encrypted LVM",
            "encrypted",
        ),
        ("d-i partman-auto/choose_recipe select multi", "/var on a volume of its own"),
        ("d-i partman/default_filesystem string btrfs", "the root is btrfs"),
        ("d-i base-installer/kernel/image string none", "installs no kernel"),
    ],
)
def test_what_no_image_can_be_made_of(line: str, said: str, tmp_path: Path) -> None:
    whole = faults(tmp_path, f"{line}\n{POWER}")
    assert said in whole
    assert "a.ks line 1: " in whole
    assert "write " in whole


def expert(*parts: str) -> str:
    body = " ".join(f"500 600 -1 ext4 {part} ." for part in parts)
    return f"{LAYOUT}d-i partman-auto/expert_recipe string own :: {body}\n{POWER}"


ROOT = "method{ format } filesystem{ ext4 } mountpoint{ / }"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["method{ format } filesystem{ ext4 } mountpoint{ /boot }"], "has no root"),
        ([ROOT.replace("ext4", "btrfs")], "/ is btrfs"),
        ([ROOT.replace("format", "crypto")], "/ is encrypted"),
        ([ROOT.replace("format", "raid")], "/ is RAID"),
        ([ROOT, ROOT], "mounts / twice"),
        ([ROOT, ROOT.replace("/ }", "/var }")], "/var is on a volume of its own"),
        ([ROOT, ROOT.replace("/ }", "/usr }")], "/usr is on a volume of its own"),
        (["lv_name{ a } " + ROOT, "lv_name{ a } method{ swap }"], "two logical volumes a"),
    ],
)
def test_recipes_that_cannot_work(parts: list[str], said: str, tmp_path: Path) -> None:
    whole = faults(tmp_path, expert(*parts))
    assert said in whole
    assert "1 fault: a.ks line 2: " in whole


def test_recipes_that_work(tmp_path: Path) -> None:
    boot = "method{ format } filesystem{ ext4 } mountpoint{ /boot }"
    assert rendered(tmp_path, expert(boot, "method{ swap }", ROOT)).warnings == ()
    (warning,) = rendered(tmp_path, expert(ROOT, ROOT.replace("/ }", "/home }"))).warnings
    assert "its content is lost" in warning


def test_no_layout_at_all_is_warned_of(tmp_path: Path) -> None:
    (warning,) = rendered(tmp_path, POWER).warnings
    assert "the installer will ask" in warning


def test_a_last_line_that_goes_on_takes_nothing_of_ours(tmp_path: Path) -> None:
    text = rendered(tmp_path, LAYOUT + POWER + "d-i pkgsel/include string one \\\n").text
    found = {question.name: question.value for question in preseed.questions(text)}
    assert found["pkgsel/include"] == "one"
    assert preseed.STARTED in found["preseed/early_command"]


def test_a_comment_inside_an_answer_is_warned_of(tmp_path: Path) -> None:
    text = "# whole\nd-i preseed/late_command string echo one; \\\n# why \\\n  echo two\n"
    (warning,) = rendered(tmp_path, text + LAYOUT + POWER).warnings
    assert warning.startswith("a.ks line 3: this line is no comment")
    assert run(tmp_path, " echo one; \\\n# why \\\n  echo two")[1] == "one\n"
