"""The installer's reading of kickstarts, by the very shell and awk it runs in: busybox."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.builders.demo.tree import TEMPLATES
from pipeline.core.resources import PROJECT

pytestmark = pytest.mark.integration

LIBRARY = TEMPLATES / "installer/lib/installer"
DRIVER = """
cd "$1"
. ./common.sh
STATE=$2 LOG=$2/log kickstart=$3
. ./options.sh
. ./kickstart.sh
. ./scripts.sh
read_kickstart
refuse_faults
for name in language keymap zone hardware_clock root_password root_password_kind root_locked \
    boot_append boot_timeout zerombr clear_all disk_wanted volume_group extent_kib host_name \
    network_device network_onboot services_off; do
    eval "printf '%s=%s\\n' $name \\"\\$$name\\""
done >"$STATE/variables"
"""
SECONDS = 30
SMALLEST = "cdrom\nrootpw secret\nzerombr\npart / --size=100\npoweroff\n"


class Reading:
    """What the installer made of a kickstart."""

    def __init__(self, tmp_path: Path, text: str) -> None:
        self.state = tmp_path / "state"
        self.state.mkdir()
        (tmp_path / "ks.cfg").write_text(text)
        done = subprocess.run(
            ["busybox", "sh", "-c", DRIVER, "driver", LIBRARY, self.state, tmp_path / "ks.cfg"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        self.said = done.stdout + done.stderr
        self.refused = done.returncode != 0
        self.faults = self.lines("faults")
        self.variables = dict(line.split("=", 1) for line in self.lines("variables"))

    def lines(self, name: str) -> list[str]:
        file = self.state / name
        return file.read_text().splitlines() if file.exists() else []


def test_the_demo_is_understood_in_full(tmp_path: Path) -> None:
    reading = Reading(tmp_path, (PROJECT / "kickstart/demo.ks").read_text())
    assert not reading.refused, reading.said
    assert reading.variables["volume_group"] == "VolGroup"
    assert reading.variables["zone"] == "Etc/UTC"
    assert reading.variables["hardware_clock"] == "UTC"
    assert reading.variables["boot_append"] == "console=tty0 console=ttyS0"
    assert reading.variables["host_name"] == "demo.localdomain"
    assert reading.variables["root_locked"] == "1"
    assert reading.lines("parts") == ["/boot|ext4|96|||||/boot", "pv.1|lvm|1||1|||pv.1"]
    assert reading.lines("volumes") == [
        "/|ext4|512||1|||lv_root",
        "swap|swap|64|||||lv_swap",
    ]
    assert reading.lines("ending") == ["poweroff"]
    assert [line.split()[1] for line in reading.lines("scripts")] == ["post"]


def test_the_smallest_kickstart(tmp_path: Path) -> None:
    reading = Reading(tmp_path, SMALLEST)
    assert not reading.refused, reading.said
    assert reading.variables["root_password"] == "secret"
    assert reading.lines("parts") == ["/|ext4|100|||||/"]


def test_quotes_comments_and_separate_values_are_read_as_pykickstart_does(tmp_path: Path) -> None:
    reading = Reading(
        tmp_path,
        "cdrom # the tree itself\n"
        "   # nothing\n"
        "rootpw 'a b\"c #d'\n"
        'bootloader --location none --append="x=\\"1\\" $HOME `id` *"\n'
        "part / --size 100 --fstype ext3\n"
        "zerombr yes\r\n",
    )
    assert not reading.refused, reading.said
    assert reading.variables["root_password"] == 'a b"c #d'
    assert reading.variables["boot_append"] == 'x="1" $HOME `id` *'
    assert reading.lines("parts") == ["/|ext3|100|||||/"]


def test_scripts_keep_their_text_and_options(tmp_path: Path) -> None:
    body = "echo '%end is not here'\n  %post is text\n# a comment stays\necho \"$x\"\n"
    reading = Reading(
        tmp_path,
        SMALLEST
        + f"%post --erroronfail --log=/root/post.log --nochroot\n{body}%end\n%pre\ntrue\n%end\n",
    )
    assert not reading.refused, reading.said
    assert reading.lines("scripts") == ["6 post", "12 pre"]
    assert (reading.state / "script.6").read_text() == body


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("autopart", "line 6: autopart is not supported by this installer"),
        ("url --url=http://host/", "line 6: url: this installer carries what it installs"),
        ("part /x --size=1 --encrypted", "line 6: --encrypted is not supported"),
        ("part /x --fstype=btrfs --size=1", "line 6: --fstype btrfs is not supported"),
        ("part /x", "line 6: /x has neither --size nor --grow"),
        ("part /x --size=1M", "line 6: --size '1M' is not a whole number"),
        ("part /x --size=9999999999", "line 6: --size '9999999999' is not a whole number"),
        ("part x --size=1", "line 6: 'x' is neither a directory"),
        ("part /x --size", "line 6: --size needs a value"),
        ("part /x --size=1 --grow=yes", "line 6: --grow takes no value"),
        ("part /a /b --size=1", "line 6: part takes one word"),
        ("part '/x|y' --size=1", "line 6: mount point '/x|y' has unusual characters"),
        ("part / --size=1", "line 6: there are two of /"),
        ("part /x --size=1 --label=seventeen-letters", "line 6: --label is longer than 16"),
        ("part /x --size=1 --ondisk=vdb --ondrive=vda", "line 6: this installer uses one disk"),
        ("volgroup vg pv.9", "line 6: there is no part pv.9 above it"),
        ("logvol /x --vgname=vg --name=x --size=1", "line 6: logvol: there is no volgroup 'vg'"),
        ("timezone Europe/Berlin", "line 6: time zone Europe/Berlin is not supported"),
        ("firewall --enabled", "line 6: --enabled is not supported"),
        ("selinux --enforcing", "line 6: --enforcing is not supported"),
        ("services --enabled=httpd", "line 6: service httpd is not supported"),
        ("bootloader --location=mbr", "line 6: bootloader --location mbr is not supported"),
        ("ignoredisk --only-use=vda,vdb", "line 6: 'vda,vdb' is not the name of one disk"),
        ("network --bootproto=static", "line 6: --bootproto static is not supported"),
        ("reboot --eject", "line 6: --eject is not supported"),
        ("lang 'en_US", "line 6: a quotation mark is not closed"),
        ("user --name=Root", "line 6: user --name='Root' is no user name"),
        ("%packages\nnano\n%end", "line 7: there is no package nano"),
        ("%packages\n-kernel\n%end", "line 7: kernel cannot be left out"),
        ("%packages --instLangs=de\n%end", "line 6: %packages --instLangs=de is not supported"),
        ("%include /tmp/part", "line 6: %include is not supported by this installer"),
        ("%post --interpreter\n%end", "line 6: --interpreter needs a value"),
        ("%pre --nochroot\n%end", "line 6: --nochroot is not supported"),
        ("%post\necho", "line 6: %post has no %end"),
        ("%end", "line 6: %end without a section"),
        ("%addon x\n%end", "line 6: %addon is not supported by this installer"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path: Path, line: str, fault: str) -> None:
    reading = Reading(tmp_path, SMALLEST + line + "\n")
    assert reading.refused
    assert any(text.startswith(fault) for text in reading.faults), reading.faults
    assert "installer: FATAL: the kickstart cannot be honoured: " in reading.said
    # The machine still ends as the kickstart says.
    assert reading.lines("ending") in (["poweroff"], ["reboot"])


@pytest.mark.parametrize(
    ("left_out", "fault"),
    [
        ("cdrom", "line 0: the installation source is missing"),
        ("rootpw", "line 0: rootpw is missing"),
        ("part", "line 0: no part or logvol is mounted at /"),
    ],
)
def test_what_an_installer_would_ask_for_is_a_fault(
    tmp_path: Path, left_out: str, fault: str
) -> None:
    lines = [line for line in SMALLEST.splitlines() if not line.startswith(left_out)]
    reading = Reading(tmp_path, "\n".join(lines) + "\n")
    assert reading.refused
    assert any(text.startswith(fault) for text in reading.faults), reading.faults


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    reading = Reading(tmp_path, SMALLEST + "autopart\nvnc\nraid / --level=1\n")
    assert [fault.split(":")[0] for fault in reading.faults] == ["line 6", "line 7", "line 8"]
    assert all(fault in reading.said for fault in reading.faults)


def test_missing_packages_may_be_ignored(tmp_path: Path) -> None:
    reading = Reading(tmp_path, SMALLEST + "%packages --ignoremissing\n@base\n-nano\n%end\n")
    assert not reading.refused, reading.said


def test_a_user_is_noted_with_a_password_of_any_characters(tmp_path: Path) -> None:
    reading = Reading(tmp_path, SMALLEST + "user --name=cloud --uid=1500 --password='p:w $x'\n")
    assert not reading.refused, reading.said
    assert reading.lines("users") == ["cloud:1500:/bin/sh::plaintext::p:w $x"]
