"""From records of boots to assertions: each fault fails its own assertion and no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from pipeline.core.checks import Assertion, CheckReport, VerifyReport
from pipeline.core.fstab import Entry
from pipeline.verify import assertion_names
from pipeline.verify.assertions import Boots, Expected, judge
from pipeline.verify.boot import Record, unless_starved
from pipeline.verify.console_log import Sign
from pipeline.verify.metadata import Key, Request
from pipeline.verify.probe import Facts

KEYS = (Key("rsa", "ssh-rsa AAAA rsa"), Key("ed25519", "ssh-ed25519 BBBB ed"))
SIZE = 1 << 30
EXPECTED = Expected(SIZE, "ssh_home_t", KEYS, 600.0)
FACTS = Facts(
    kernel="6.1.0",
    command_line="root=/dev/vda",
    init="systemd",
    root_device="/dev/vda",
    root_options=("rw", "relatime"),
    root_bytes=SIZE,
    root_usable=int(SIZE * 0.95),
    mount_points=frozenset({"/", "/proc"}),
    swaps=0,
    fstab="LABEL=uec-rootfs / ext4 defaults 0 0",
    addresses=("127.0.0.1", "169.254.169.15"),
    uid="0",
    modes={
        "home": ("drwx------", "0", "0"),
        "ssh": ("drwx------", "0", "0"),
        "keys": ("-rw-------", "0", "0"),
    },
    keys=("ssh-rsa AAAA rsa", "ssh-ed25519 BBBB renamed"),
    machine_id="a" * 32,
    module_versions=("6.1.0",),
    selinux_enforcing=False,
    selinux_listing="",
    system_state="running",
    failed_units=(),
)
FIRST = Record(
    name="first",
    title=assertion_names.ROOT_BY_DEVICE,
    began=True,
    prompted=True,
    to_banner=10.0,
    to_ssh=12.0,
    trouble="",
    late=False,
    facts=FACTS,
    host_keys=frozenset({"ssh-rsa 1", "ssh-ed25519 2"}),
    requests=(Request(9.0, "GET", "/latest/meta-data/public-keys/", 200, False),),
    key_served=True,
    signs=(),
    tail=(),
    power_off="guest-shutdown",
    power_off_seconds=3.0,
    clean=True,
    evidence=(),
)
OTHER = replace(
    FIRST,
    name="other",
    title=assertion_names.ROOT_AS_RECORDED,
    host_keys=frozenset({"ssh-rsa 3", "ssh-ed25519 4"}),
    facts=replace(FACTS, machine_id="b" * 32),
)
BARE = replace(OTHER, name="bare", facts=None, to_ssh=None, requests=(), power_off=None)
SOUND = Boots(FIRST, OTHER, replace(FIRST, name="again"), BARE)
DEAD: dict[str, Any] = {
    "to_banner": None,
    "to_ssh": None,
    "facts": None,
    "prompted": False,
    "requests": (),
    "key_served": False,
    "power_off": None,
    "host_keys": frozenset(),
}


def failures(boots: Boots, expected: Expected = EXPECTED) -> list[str]:
    return [a.name for a in judge(boots, expected) if a.reached and not a.passed]


def with_facts(**changes: Any) -> Boots:
    """The sound boots with other facts in each but the bare one."""
    first = replace(FIRST, facts=replace(FACTS, **changes))
    # Its own machine-id stays, unless that is what changes.
    other = replace(OTHER, facts=replace(FACTS, **({"machine_id": "b" * 32} | changes)))
    return Boots(first, other, replace(first, name="again"), BARE)


def test_sound_boots_pass_everything_once() -> None:
    table = judge(SOUND, EXPECTED)
    assert [a for a in table if not a.passed] == []
    said = [a.name for a in table]
    assert len(said) == len(set(said)) == 26
    assert all(a.detail and "\n" not in a.detail for a in table)


@pytest.mark.parametrize(
    ("changes", "assertion"),
    [
        ({"root_options": ("ro",)}, assertion_names.WRITABLE),
        ({"root_bytes": SIZE + 512}, assertion_names.SIZE),
        ({"root_usable": SIZE // 2}, assertion_names.SIZE),
        ({"fstab": "/dev/VolGroup/lv_swap swap swap defaults 0 0"}, assertion_names.FSTAB),
        ({"fstab": "UUID=1 /boot ext4 defaults 1 2"}, assertion_names.FSTAB),
        ({"keys": ("ssh-rsa AAAA rsa", "ssh-rsa AAAA again")}, assertion_names.KEY_ONCE),
        ({"keys": ("ssh-rsa ZZZZ stranger",)}, assertion_names.KEY_ONCE),
        (
            {"modes": dict(FACTS.modes) | {"keys": ("-rw-r--r--", "0", "0")}},
            assertion_names.KEY_MODES,
        ),
        (
            {"modes": dict(FACTS.modes) | {"ssh": ("drwx------", "1000", "0")}},
            assertion_names.KEY_MODES,
        ),
        (
            {"modes": dict(FACTS.modes) | {"home": ("drwxrwx---", "0", "0")}},
            assertion_names.KEY_MODES,
        ),
        ({"modes": {}}, assertion_names.KEY_MODES),
        ({"selinux_enforcing": True, "selinux_listing": "?"}, assertion_names.KEY_SELINUX),
        (
            {
                "selinux_enforcing": True,
                "selinux_listing": "unconfined_u:object_r:admin_home_t:s0 /root/.ssh/x",
            },
            assertion_names.KEY_SELINUX,
        ),
        ({"failed_units": ("broken.service",), "system_state": "degraded"}, assertion_names.UNITS),
        ({"system_state": "starting"}, assertion_names.UNITS),
        ({"module_versions": ("6.1.1",)}, assertion_names.MODULES),
        ({"machine_id": "c" * 32}, assertion_names.FRESH_MACHINE_ID),
    ],
)
def test_each_wrong_fact_fails_its_own_assertion(changes: dict[str, Any], assertion: str) -> None:
    assert failures(with_facts(**changes)) == [assertion]


@pytest.mark.parametrize(
    "changes",
    [
        {"fstab": "UUID=1 /data ext4 nofail 0 0\n# /x y z\n/dev/sr0 /cd iso9660 noauto"},
        {"failed_units": None, "init": "init", "system_state": ""},
        {"module_versions": ()},
        {"machine_id": ""},
        {
            "selinux_enforcing": True,
            "selinux_listing": "system_u:object_r:ssh_home_t:s0:c1,c2 /root/.ssh/authorized_keys",
        },
        {"keys": ("# a comment", "ssh-rsa AAAA rsa")},
    ],
)
def test_harmless_facts_pass(changes: dict[str, Any]) -> None:
    assert failures(with_facts(**changes)) == []


def dead(record: Record, trouble: str, *signs: Sign, **changes: Any) -> Record:
    return replace(record, trouble=trouble, signs=signs, **(DEAD | changes))


def test_a_disk_with_one_firmware_has_one_line_and_either_boot_can_fail_it() -> None:
    first, other = (replace(record, title=assertion_names.UEFI) for record in (FIRST, OTHER))
    expected = replace(EXPECTED, size=None)
    sound = Boots(first, other, replace(first, name="again"), with_bare=False)
    names = [a.name for a in judge(sound, expected)]
    assert names.count(assertion_names.UEFI) == 1
    assert len(names) == len(set(names))
    lost = replace(other, **DEAD, trouble="no boot device")
    table = judge(replace(sound, other=lost), expected)
    assert [a.passed for a in table if a.name == assertion_names.UEFI] == [False]


def test_wrong_label_fails_the_recorded_command_line_alone() -> None:
    line = "ALERT!  LABEL=uec-rootfs does not exist."
    other = dead(OTHER, line, Sign(assertion_names.ROOT, line, final=True))
    assert failures(replace(SOUND, other=other, bare=None)) == [assertion_names.ROOT_AS_RECORDED]


def test_a_silent_kernel_is_the_kernels_fault() -> None:
    first, other = (dead(r, "not there", began=False, late=True) for r in (FIRST, OTHER))
    assert failures(Boots(first, other)) == [assertion_names.KERNEL, assertion_names.IN_TIME]


def test_causes_come_before_consequences() -> None:
    signs = (
        Sign(assertion_names.RAMDISK, "Initramfs unpacking failed", final=False),
        Sign(assertion_names.ROOT, "VFS: Unable to mount root fs", final=True),
    )
    first, other = (dead(r, signs[1].line, *signs) for r in (FIRST, OTHER))
    found = failures(Boots(first, other))
    assert found == [
        assertion_names.RAMDISK,
        assertion_names.ROOT_BY_DEVICE,
        assertion_names.ROOT_AS_RECORDED,
    ]


def test_a_complaint_of_a_ramdisk_that_works_is_no_failure() -> None:
    sign = Sign(assertion_names.RAMDISK, "Initramfs unpacking failed: Decoding failed", final=False)
    assert failures(replace(SOUND, first=replace(FIRST, signs=(sign,)))) == []


def test_modules_that_do_not_fit_are_blamed_before_the_root() -> None:
    signs = (
        Sign(assertion_names.MODULES, "version magic 'a' should be 'b'", final=False),
        Sign(assertion_names.ROOT, "ALERT!  /dev/vda does not exist", final=True),
    )
    first, other = (dead(r, signs[1].line, *signs) for r in (FIRST, OTHER))
    assert failures(Boots(first, other))[0] == assertion_names.MODULES


def test_a_wait_for_swap_is_the_fstabs_fault() -> None:
    line = "A start job is running for /dev/VolGroup/lv_swap (1min 1s / 1min 30s)"
    first, other = (
        dead(r, line, Sign(assertion_names.FSTAB, line, final=True)) for r in (FIRST, OTHER)
    )
    assert failures(Boots(first, other)) == [assertion_names.FSTAB]


def test_no_key_asked_for() -> None:
    changes: dict[str, Any] = {"to_banner": 10.0, "prompted": True}
    first, other = (dead(r, "never asked", **changes) for r in (FIRST, OTHER))
    assert failures(Boots(first, other)) == [assertion_names.KEY, assertion_names.KEY_BY_TOKEN]


def test_a_key_fetched_and_not_accepted() -> None:
    first = dead(FIRST, "SSH: Permission denied", to_banner=10.0, key_served=True)
    assert failures(replace(SOUND, first=first, again=None)) == [assertion_names.LOGIN]


def test_tokens_only_is_told_apart() -> None:
    other = dead(OTHER, "no key: asked, and got none", to_banner=10.0)
    assert failures(replace(SOUND, other=other)) == [assertion_names.KEY_BY_TOKEN]


def test_no_network() -> None:
    first, other = (dead(r, "a prompt and no SSH", prompted=True) for r in (FIRST, OTHER))
    assert failures(Boots(first, other)) == [assertion_names.DHCP, assertion_names.LOGIN]


@pytest.mark.parametrize(
    ("again", "found"),
    [
        (
            {"facts": replace(FACTS, keys=(*FACTS.keys, "ssh-rsa CCCC"))},
            [assertion_names.SAME_KEYS],
        ),
        ({"host_keys": frozenset({"ssh-rsa 9"})}, [assertion_names.SAME_HOST_KEYS]),
        ({"facts": replace(FACTS, machine_id="d" * 32)}, [assertion_names.SAME_HOST_KEYS]),
        (
            {"trouble": "x", "facts": None},
            [assertion_names.SAME_KEYS, assertion_names.SAME_HOST_KEYS],
        ),
    ],
)
def test_the_second_boot_changes_nothing(again: dict[str, Any], found: list[str]) -> None:
    assert failures(replace(SOUND, again=replace(FIRST, name="again", **again))) == found


def test_a_shipped_host_key() -> None:
    other = replace(OTHER, host_keys=frozenset({"ssh-rsa 3", "ssh-ed25519 2"}))
    assert failures(replace(SOUND, other=other)) == [assertion_names.FRESH_HOST_KEYS]


@pytest.mark.parametrize(
    "changes", [{"power_off": None}, {"power_off": "guest-reset"}, {"clean": False}]
)
def test_power_off(changes: dict[str, Any]) -> None:
    assert failures(replace(SOUND, first=replace(FIRST, **changes))) == [assertion_names.POWER_OFF]


@pytest.mark.parametrize("clean", [True, None])
def test_a_file_system_that_was_not_looked_at_is_not_called_clean(clean: bool | None) -> None:
    table = judge(replace(SOUND, first=replace(FIRST, clean=clean)), EXPECTED)
    (power_off,) = [a for a in table if a.name == assertion_names.POWER_OFF]
    assert power_off.passed and ("file system clean" in power_off.detail) is bool(clean)


def test_a_guest_that_hangs_without_metadata() -> None:
    bare = dead(BARE, "not there within 600 s", late=True)
    assert failures(replace(SOUND, bare=bare)) == [assertion_names.NO_METADATA]


@pytest.mark.parametrize("name", [assertion_names.PANIC, assertion_names.IO, assertion_names.INIT])
def test_signs_in_a_boot_that_came_up(name: str) -> None:
    again = replace(FIRST, name="again", signs=(Sign(name, "a line", final=False),))
    assert failures(replace(SOUND, again=again)) == [name]


def test_a_unit_that_fails_without_metadata_is_no_init_error() -> None:
    bare = replace(
        BARE, signs=(Sign(assertion_names.INIT, "Failed to start rc.local", final=False),)
    )
    assert failures(replace(SOUND, bare=bare)) == []


def test_the_report_is_json() -> None:
    table = (
        Assertion("a", True, "fine"),
        Assertion("b", False, "bad"),
        Assertion("c", False, "", False),
    )
    report = VerifyReport(False, table, None, (Path("x/first-console.log"),), ("line",))
    assert [a.name for a in report.failures] == ["b"]
    kept = report.record("triple", {"kernel": "ab"})
    record = json.loads(TypeAdapter(CheckReport).dump_json(kept))
    assert record["assertions"][2] == {"name": "c", "passed": False, "reached": False, "detail": ""}
    assert (record["target"], record["artifacts"]) == ("triple", {"kernel": "ab"})
    assert record["console_lines"] == ["line"]


STARVED = replace(
    FIRST,
    trouble="[ 0.04] Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with",
)
PANICKED = replace(FIRST, trouble="[ 1.2] Kernel panic - not syncing: VFS: Unable to mount root fs")


@pytest.mark.parametrize(
    ("boots", "wanted", "tries"),
    [
        ([FIRST], FIRST, 1),
        ([STARVED, STARVED, FIRST], FIRST, 3),
        ([STARVED, PANICKED, FIRST], PANICKED, 2),  # a panic of the image's own stands
        ([STARVED] * 9, STARVED, 4),
    ],
)
def test_a_guest_that_the_host_starved_is_booted_again(
    boots: list[Record], wanted: Record, tries: int
) -> None:
    left = list(boots)
    assert unless_starved(lambda: left.pop(0)) is wanted
    assert len(boots) - len(left) == tries


FILER = Entry("srv-y.mount", "nas:/y", "/srv/y", "nfs4", ("ro",))
NO_SERVER = {
    "fstab": (
        "LABEL=uec-rootfs / ext4 defaults 0 0\n"
        "nas:/x /srv/x nfs4 ro,_netdev 0 0\n"
        "goofys#bucket /mnt/s3 fuse _netdev,allow_other 0 0\n"
        "atlas.cern.ch /cvmfs/atlas cvmfs defaults 0 0\n"
        "/srv/x/home /people none bind 0 0\n"
    ),
    "failed_units": ("srv-x.mount", "srv-y.mount"),
    "failed_mounts": (Entry("srv-x.mount", "nas:/x", "/srv/x", "nfs4", ("ro",)), FILER),
    "mount_titles": {"srv-y.mount": "The filer"},
}


def complaint(line: str, boots: Boots) -> Boots:
    sign = Sign(assertion_names.FSTAB, line, False)
    return replace(boots, other=replace(boots.other, signs=(sign,)))


@pytest.mark.parametrize(
    "line",
    [
        "[FAILED] Failed to mount /srv/x.",
        "[FAILED] Failed to mount srv-y.mount - The filer.",
        "[FAILED] Failed to mount The filer.",
        "[DEPEND] Dependency failed for /people.",
        "mount: mounting nas:/x on /srv/x failed: Invalid argument",
    ],
)
def test_mounts_from_servers_are_not_asked_for(line: str) -> None:
    boots = with_facts(**NO_SERVER)
    assert failures(boots) == []
    assert failures(complaint(line, boots)) == []
    (said,) = [a.detail for a in judge(boots, EXPECTED) if a.name == assertion_names.FSTAB]
    assert "no network for /srv/x, /mnt/s3, /cvmfs/atlas" in said


@pytest.mark.parametrize(
    "line",
    ["[FAILED] Failed to mount /srv.", "[FAILED] Failed to mount /srv/xy.", "You are in emergency"],
)
def test_other_mounts_are_asked_for_beside_them(line: str) -> None:
    assert failures(complaint(line, with_facts(**NO_SERVER))) == [assertion_names.FSTAB]


def test_a_disk_of_a_server_and_a_unit_on_a_disk_are_asked_for() -> None:
    line = "/dev/sdb1 /iscsi ext4 _netdev 0 0\n"
    assert failures(with_facts(fstab=line)) == [assertion_names.FSTAB]
    on_disk = Entry("data.mount", "/dev/vdb", "/data", "ext4")
    boots = with_facts(failed_units=("data.mount",), failed_mounts=(on_disk,))
    assert failures(boots) == [assertion_names.UNITS]
