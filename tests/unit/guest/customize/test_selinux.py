"""SELinux labels by file contexts, and the bounded expressions they are written in."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.guest.customize.selinux import Policy, load_policy
from pipeline.guest.customize.selinux_regex import PatternError, fixed_prefix, matches, parse
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


def test_labels_end_with_a_zero_byte() -> None:
    assert Policy([CONTEXTS]).label("/etc/fstab", "file") == b"system_u:object_r:etc_t:s0\0"


def test_local_rules_come_last_and_so_win() -> None:
    policy = Policy(["/a/.* x:x:first_t\n", "", "/a/b.* x:x:local_t\n"])
    assert policy.label("/a/b", "file") == b"x:x:local_t\0"


def test_the_guests_own_policy() -> None:
    directory = "/etc/selinux/targeted/contexts/files"
    tree = {
        "/etc/selinux/config": "SELINUX=enforcing\n# SELINUXTYPE=mls\nSELINUXTYPE=targeted\n",
        f"{directory}/file_contexts": CONTEXTS,
        f"{directory}/file_contexts.homedirs": "/root/\\.ssh(/.*)? x:x:ssh_home_t\n",
        f"{directory}/file_contexts.subs": "/srv/etc /etc\n",
    }
    policy = load_policy(MemoryGuest(tree))
    assert policy is not None
    assert policy.label("/root/.ssh/authorized_keys", "file") == b"x:x:ssh_home_t\0"
    assert policy.label("/srv/etc/fstab", "file") == b"system_u:object_r:etc_t:s0\0"


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"/etc/selinux/config": "SELINUX=disabled\n"},
        {"/etc/selinux/config": "SELINUXTYPE=../../tmp\n"},
        {"/etc/selinux/config": "SELINUXTYPE=targeted\n"},
    ],
)
def test_guests_without_a_policy(tree: dict[str, str]) -> None:
    assert load_policy(MemoryGuest(tree)) is None


def test_a_policy_that_is_no_text() -> None:
    tree: dict[str, str | bytes] = {
        "/etc/selinux/config": "SELINUXTYPE=t\n",
        "/etc/selinux/t/contexts/files/file_contexts": b"\xff\xfe",
    }
    with pytest.raises(PatternError):
        load_policy(MemoryGuest(tree))


# The expressions


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "[a", "a{99}", "(?=a)", r"\1", r"\b", "*a", "a" * 3000, "(" * 30 + ")" * 30],
)
def test_what_is_not_understood_is_said(pattern: str) -> None:
    with pytest.raises(PatternError):
        parse(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(a*)*(a*)*(a*)*b", "((a?){60}){60}b"])
def test_hostile_expressions_end(pattern: str) -> None:
    began = time.monotonic()
    try:
        assert not matches(pattern, "a" * 60 + "!")
    except PatternError as error:
        assert "too long" in str(error)
    assert time.monotonic() - began < 5


_PIECES = [
    "a", "b", "/", ".", r"\.", "[ab]", "[^/]", "[a-c]", "(a|b/)", "(/.*)?", "(?:ab)", "a?", "b*",
    ".+", "(ab){1,2}", "a{2}", "b{1,}", "[]x]", "[a-]", r"[\.b]", r"\d", "(|a)", "((a|b)*/)?",
]  # fmt: skip
_PATTERNS = st.lists(st.sampled_from(_PIECES), max_size=6).map("".join)
_TEXTS = st.text("ab/.c1-]x", max_size=8)


@given(_PATTERNS, _TEXTS)
def test_expressions_mean_what_they_mean_to_re(pattern: str, text: str) -> None:
    assert matches(pattern, text) == (re.fullmatch(pattern, text) is not None)


@given(_PATTERNS, _PATTERNS, _TEXTS)
def test_the_first_test_never_lies(pattern: str, other: str, text: str) -> None:
    for expression in (pattern, f"{pattern}|{other}"):
        if re.fullmatch(expression, text):
            assert text.startswith(fixed_prefix(expression))


@given(st.text(r"ab()[]{}|*+?.\^$1,-:", max_size=12), _TEXTS)
def test_any_expression_ends(pattern: str, text: str) -> None:
    try:
        matches(pattern, text)
    except PatternError:
        return
    fixed_prefix(pattern)
