"""SELinux labels by file contexts, as libselinux tells them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.core.events import QuietProgress
from pipeline.disk.filesystems.status import Kind
from pipeline.guest.access.editor import ATTRIBUTE, Editor
from pipeline.guest.customize.selinux import Policy, PolicyError, load_policy
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.memory_guest import MemoryGuest

# Rules in the manner of the reference policy, with the constructs that occur in it.
CONTEXTS = r"""
/.*			system_u:object_r:default_t:s0
/[^/]+		--	system_u:object_r:etc_runtime_t:s0
/etc(/.*)?		system_u:object_r:etc_t:s0
/etc/.*\.conf	--	system_u:object_r:conf_t:s0
/etc/rc\.d/rc\.[^/]*	--	system_u:object_r:initrc_exec_t:s0
/etc/rc\.local	--	system_u:object_r:rclocal_t:s0
/etc/ssh/ssh_host_(rsa|dsa|ecdsa)_key(\.pub)?	--	system_u:object_r:sshd_key_t:s0
/etc/(machine-id|adjtime)	--	system_u:object_r:run_t:s0
/etc/systemd/system(/.*)?	system_u:object_r:systemd_unit_file_t:s0
/etc/x[0-9]{1,3}y?	system_u:object_r:x_t:s0
/dev/.*			<<none>>
/usr/lib(64)?(/.*)?	system_u:object_r:lib_t:s0
/usr/lib/systemd/system(/.*)?	system_u:object_r:systemd_unit_file_t:s0
/home/[^/]+/\.ssh(/.*)?	system_u:object_r:ssh_home_t:s0
# a comment
malformed line with too many words
"""


SUBSTITUTIONS = "/lib /usr/lib\n/var/home /home\n"


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), tmp_path)


def policy_of(tools: Tools, contexts: str, **others: str) -> Policy:
    files = {"": contexts, **{f".{name}": text for name, text in others.items()}}
    return Policy(files, tools.scratch / "selinux", tools.run)


def label(policy: Policy, path: str, kind: Kind = "file") -> bytes | None:
    return policy.labels({path: kind})[path]


def test_labels_end_with_a_zero_byte(tools: Tools) -> None:
    assert label(policy_of(tools, CONTEXTS), "/etc/fstab") == b"system_u:object_r:etc_t:s0\0"


# path: types of a file, a directory and a link
EXPECTED = {
    "/": ("default_t", "default_t", "default_t"),
    "/.autorelabel": ("etc_runtime_t", "default_t", "default_t"),
    "/etc": ("etc_t", "etc_t", "etc_t"),
    "/etc/fstab": ("etc_t", "etc_t", "etc_t"),
    "/etc/a.conf": ("conf_t", "etc_t", "etc_t"),
    "/etc/rc.d/rc.local": ("initrc_exec_t", "etc_t", "etc_t"),
    "/etc/rc.local": ("rclocal_t", "etc_t", "etc_t"),
    "/etc/rcxlocal": ("etc_t", "etc_t", "etc_t"),
    "/etc/ssh/ssh_host_rsa_key.pub": ("sshd_key_t", "etc_t", "etc_t"),
    "/etc/ssh/ssh_host_ed25519_key": ("etc_t", "etc_t", "etc_t"),
    "/etc/machine-id": ("run_t", "etc_t", "etc_t"),
    "/etc/x12y": ("x_t", "x_t", "x_t"),
    "/etc/x1234": ("etc_t", "etc_t", "etc_t"),
    "/etc/systemd/system/rc-local.service": (
        "systemd_unit_file_t",
        "systemd_unit_file_t",
        "systemd_unit_file_t",
    ),
    "/dev/null": ("<<none>>", "<<none>>", "<<none>>"),
    "/usr/lib/x": ("lib_t", "lib_t", "lib_t"),
    "/usr/lib/systemd/system/a.service": (
        "systemd_unit_file_t",
        "systemd_unit_file_t",
        "systemd_unit_file_t",
    ),
    "/lib/systemd/system/a.service": (
        "systemd_unit_file_t",
        "systemd_unit_file_t",
        "systemd_unit_file_t",
    ),
    "/home/me/.ssh/authorized_keys": ("ssh_home_t", "ssh_home_t", "ssh_home_t"),
    "/var/home/me/.ssh": ("ssh_home_t", "ssh_home_t", "ssh_home_t"),
    "/new/line\nfeed": ("default_t", "default_t", "default_t"),
}


def test_every_construct_of_the_reference_policy(tools: Tools) -> None:
    policy = policy_of(tools, CONTEXTS, subs_dist=SUBSTITUTIONS)
    kinds: tuple[Kind, ...] = ("file", "directory", "symlink")
    for index, kind in enumerate(kinds):
        told = policy.labels(dict.fromkeys(EXPECTED, kind))
        for path, types in EXPECTED.items():
            named = f"system_u:object_r:{types[index]}:s0".encode() + b"\0"
            assert told[path] == (None if types[index] == "<<none>>" else named), (path, kind)


def test_labels_of_several_kinds_are_told_at_once(tools: Tools) -> None:
    policy = policy_of(tools, "/a/.* -d x:x:d_t\n/a/.* -l x:x:l_t\n/a/.* -- x:x:f_t\n")
    wanted: Mapping[str, Kind] = {"/a/1": "symlink", "/a/2": "file", "/a/3": "directory"}
    assert policy.labels(wanted) == {
        "/a/1": b"x:x:l_t\0",
        "/a/2": b"x:x:f_t\0",
        "/a/3": b"x:x:d_t\0",
    }


def test_local_rules_come_last_and_so_win(tools: Tools) -> None:
    policy = policy_of(tools, "/a/.* x:x:first_t\n", local="/a/b.* x:x:local_t\n")
    assert label(policy, "/a/b") == b"x:x:local_t\0"


def test_the_guests_own_policy(tools: Tools) -> None:
    directory = "/etc/selinux/targeted/contexts/files"
    tree = {
        "/etc/selinux/config": "SELINUX=enforcing\n# SELINUXTYPE=mls\nSELINUXTYPE=targeted\n",
        f"{directory}/file_contexts": CONTEXTS,
        f"{directory}/file_contexts.homedirs": "/root/\\.ssh(/.*)? x:x:ssh_home_t\n",
        f"{directory}/file_contexts.subs": "/srv/etc /etc\n",
    }
    policy = load_policy(MemoryGuest(tree), tools)
    assert policy is not None
    assert label(policy, "/root/.ssh/authorized_keys") == b"x:x:ssh_home_t\0"
    assert label(policy, "/srv/etc/fstab") == b"system_u:object_r:etc_t:s0\0"


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"/etc/selinux/config": "SELINUX=disabled\n"},
        {"/etc/selinux/config": "SELINUXTYPE=../../tmp\n"},
        {"/etc/selinux/config": "SELINUXTYPE=targeted\n"},
    ],
)
def test_guests_without_a_policy(tree: dict[str, str], tools: Tools) -> None:
    assert load_policy(MemoryGuest(tree), tools) is None


def test_a_policy_that_is_no_text(tools: Tools) -> None:
    tree: dict[str, str | bytes] = {
        "/etc/selinux/config": "SELINUXTYPE=t\n",
        "/etc/selinux/t/contexts/files/file_contexts": b"\xff\xfe",
    }
    with pytest.raises(PolicyError):
        load_policy(MemoryGuest(tree), tools)


@pytest.mark.parametrize("pattern", ["/(", "/)", "/[a", "/*a{2,1}", "/(?<=a+)b", "/\\Qü"])
def test_a_rule_that_is_no_expression_is_said(pattern: str, tools: Tools) -> None:
    with pytest.raises(PolicyError, match="sefcontext_compile") as caught:
        policy_of(tools, f"{CONTEXTS}{pattern} x:x:x_t\n")
    assert f"line {CONTEXTS.count(chr(10)) + 1} " in str(caught.value)
    assert str(tools.scratch) not in str(caught.value)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(a*)*(a*)*(a*)*b", "((a?){60}){60}b"])
def test_hostile_expressions_end(pattern: str, tools: Tools) -> None:
    began = time.monotonic()
    policy = policy_of(tools, f"/{pattern} x:x:x_t\n")
    assert label(policy, "/" + "a" * 60 + "!") is None
    assert time.monotonic() - began < 10


def test_a_label_that_cannot_be_told_is_no_label_that_the_policy_does_not_want(
    tools: Tools,
) -> None:
    """libselinux says "<<none>>" in both cases."""
    rules = "/.* x:x:default_t\n/srv/([^/.]+-?)*\\.log x:x:log_t\n/proc/.* <<none>>\n"
    policy = policy_of(tools, rules)
    assert label(policy, "/srv/a.tgz") == b"x:x:default_t\0"
    assert label(policy, "/proc/1") is None
    with pytest.raises(PolicyError, match="too long"):
        label(policy, f"/srv/{'a' * 40}.tgz")


def test_a_policy_that_takes_too_much_is_refused(tools: Tools) -> None:
    rules = "".join(f"/(.{{1,250}}){{1,250}}{n} x:x:x_t\n" for n in range(30_000))
    with pytest.raises(PolicyError):
        policy_of(tools, rules)
    assert sum(path.stat().st_size for path in (tools.scratch / "selinux").iterdir()) < 80 << 20


def test_look_around_is_understood(tools: Tools) -> None:
    policy = policy_of(tools, "/etc/(?!x).* x:x:not_x_t\n")
    assert label(policy, "/etc/y") == b"x:x:not_x_t\0"
    assert label(policy, "/etc/x") is None


def test_what_is_edited_gets_its_label_at_the_end_and_what_is_gone_gets_none(tools: Tools) -> None:
    guest = MemoryGuest({"/etc/kept": "1", "/etc/link": {"link": "kept"}, "/opt/kept": "1"})
    guest.set_xattr("/opt/kept", ATTRIBUTE, b"old_t\0")
    editor = Editor(guest)
    editor.write("/opt/kept", "2")
    editor.write("/opt/kept", "3")
    editor.write("/etc/new", "x")
    editor.write("/etc/gone", "x")
    editor.remove("/etc/gone")
    editor.write("/etc/changed", "x")
    editor.link("kept", "/etc/changed")
    editor.label(policy_of(tools, "/etc/.* -- x:x:f_t\n/etc/.* -l x:x:l_t\n"))
    labels = {path: node.xattrs.get(ATTRIBUTE) for path, node in guest.nodes.items()}
    assert labels["/opt/kept"] == b"old_t\0"
    assert labels["/etc/new"] == b"x:x:f_t\0"
    assert labels["/etc/changed"] == b"x:x:l_t\0"
    assert labels["/etc/kept"] is labels["/etc/link"] is None
