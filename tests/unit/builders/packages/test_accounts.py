"""Accounts are edited as their own programs do it, without the time and without chance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.builders.packages.inside.accounts import Accounts
from pipeline.builders.packages.inside.places import Fault, Guest

EPOCH = 1_700_000_000
DAY = str(EPOCH // 86400)
FILES = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\n",
    "shadow": "root:*:20000:0:99999:7:::\ndaemon:*:20001:0:99999:7:::\n",
    "group": "root:x:0:\ndaemon:x:1:\nsudo:x:27:\nstaff:x:1000:\n",
    "gshadow": "root:*::\ndaemon:*::\nsudo:*::\nstaff:!::\n",
    "login.defs": "UID_MIN\t\t 1000\nGID_MIN 1000\n",
}
JOE: dict[str, Any] = {
    "name": "joe",
    "uid": None,
    "groups": [],
    "shell": "/bin/bash",
    "gecos": "",
    "home": "",
    "hash": "$6$s$h",
    "keys": [],
    "reserved": set(),
    "made": [],
}


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name, text in FILES.items():
        (etc / name).write_text(text)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bash").touch()
    (tmp_path / "home/joe").mkdir(parents=True)
    return Accounts.read(Guest(EPOCH, str(tmp_path)))


def written(accounts: Accounts, name: str) -> list[str]:
    accounts.write()
    return accounts.guest.text(f"/etc/{name}").splitlines()


def test_a_user_has_the_lowest_free_id_and_a_group_of_its_own(accounts: Accounts) -> None:
    accounts.add_user(JOE)
    assert written(accounts, "passwd")[-1] == "joe:x:1000:1001::/home/joe:/bin/bash"
    assert written(accounts, "group")[-1] == "joe:x:1001:"
    assert written(accounts, "gshadow")[-1] == "joe:!::"
    assert written(accounts, "shadow")[-1] == f"joe:$6$s$h:{DAY}:0:99999:7:::"


def test_an_id_that_another_user_asks_for_is_not_taken(accounts: Accounts) -> None:
    accounts.add_user(JOE | {"reserved": {1000, 1001}})
    assert written(accounts, "passwd")[-1].startswith("joe:x:1002:1002:")


def test_a_second_time_changes_nothing(accounts: Accounts) -> None:
    accounts.add_user(JOE)
    accounts.join("sudo", "joe")
    accounts.write()
    before = {name: accounts.guest.text(f"/etc/{name}") for name in FILES}
    again = Accounts.read(accounts.guest)
    again.add_user(JOE)
    again.join("sudo", "joe")
    again.write()
    assert {name: accounts.guest.text(f"/etc/{name}") for name in FILES} == before


def test_members_are_in_group_and_gshadow(accounts: Accounts) -> None:
    accounts.add_user(JOE)
    accounts.join("sudo", "joe")
    assert "sudo:x:27:joe" in written(accounts, "group")
    assert "sudo:*::joe" in written(accounts, "gshadow")


def test_a_locked_password_matches_nothing(accounts: Accounts) -> None:
    accounts.set_password("root", "")
    assert written(accounts, "shadow")[0] == f"root:*:{DAY}:0:99999:7:::"


@pytest.mark.parametrize("epoch", [0, 1, 86399])
def test_no_day_forces_a_change_at_the_first_login(accounts: Accounts, epoch: int) -> None:
    early = Accounts(Guest(epoch, accounts.guest.top), accounts.tables)
    assert early.day == "1"


def test_no_password_was_changed_after_the_epoch(accounts: Accounts) -> None:
    accounts.settle_days()
    days = [line.split(":")[2] for line in written(accounts, "shadow")]
    assert days == [DAY, DAY]


def test_backups_go(accounts: Accounts) -> None:
    backup = accounts.guest.at("/etc/shadow-")
    backup.write_text("old")
    accounts.write()
    assert not backup.exists()


def test_subordinate_ids_follow_the_last_ones(accounts: Accounts) -> None:
    for name in ("subuid", "subgid"):
        accounts.guest.at(f"/etc/{name}").write_text("ann:100000:65536\n")
    accounts.add_user(JOE)
    assert accounts.guest.text("/etc/subuid") == "ann:100000:65536\njoe:165536:65536\n"
    assert accounts.guest.text("/etc/subgid") == accounts.guest.text("/etc/subuid")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "daemon"}, "daemon is an account of the system's, with the uid 1"),
        ({"name": "daemon", "uid": 7}, "daemon is there with the uid 1 and not 7"),
        ({"uid": 1}, "the uid 1 of joe is taken"),
        ({"name": "staff"}, "there is a group staff already"),
        ({"shell": "/bin/fish"}, "the shell /bin/fish is not in the guest: add its package"),
    ],
)
def test_what_cannot_be_is_told(accounts: Accounts, change: dict[str, object], said: str) -> None:
    with pytest.raises(Fault, match=re.escape(said)):
        accounts.add_user(JOE | change)


def test_a_group_that_is_not_there(accounts: Accounts) -> None:
    with pytest.raises(Fault, match="there is no group docker: add its package"):
        accounts.join("docker", "joe")
    with pytest.raises(Fault, match="no user nobody-here: add its package"):
        accounts.ids_of("nobody-here", "root")
    assert accounts.ids_of("root", "27") == (0, 27)


def test_a_home_that_is_a_link_is_left(accounts: Accounts) -> None:
    home = accounts.guest.at("/home/joe")
    home.rmdir()
    home.symlink_to("/etc")
    with pytest.raises(Fault, match="is a link"):
        accounts.add_user(JOE)
