"""The guest's accounts: passwd, shadow, group and gshadow, edited as their own programs do.

Ids are the lowest free ones from UID_MIN and GID_MIN of login.defs on, so that the same recipe
gives the same ids. Nothing has the time of the build: the day of a password's last change is the
epoch's. Sources: passwd(5), shadow(5), group(5), gshadow(5), subuid(5), login.defs(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pipeline.builders.packages.inside.places import Fault, Guest

_FILES = ("passwd", "shadow", "group", "gshadow")
_BACKUPS = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
_LOCKED = "*"
"""No password matches it, and unlike "!" it does not make sshd refuse the account's keys."""
_MOST = 60000
_SUBORDINATE, _FIRST_SUBORDINATE = 65536, 100000

Row = list[str]


@dataclass
class Accounts:
    """All accounts. Each table's rows in the order of the file, split at the colons."""

    guest: Guest
    tables: dict[str, list[Row]]

    @classmethod
    def read(cls, guest: Guest) -> Accounts:
        """Those of a guest; Fault where it has none."""
        tables = {}
        for name in _FILES:
            text = guest.text(f"/etc/{name}")
            tables[name] = [line.split(":") for line in text.splitlines()]
        accounts = cls(guest, tables)
        if not tables["shadow"] or accounts.row("passwd", "root") is None:
            raise Fault("it has no accounts in /etc/passwd and /etc/shadow: the core needs passwd")
        return accounts

    def write(self) -> None:
        """Write the files that changed, and remove the backups that others left."""
        for name in _FILES:
            rows = self.tables[name]
            if rows:
                text = "".join(f"{':'.join(row)}\n" for row in rows)
                self.guest.set_text(f"/etc/{name}", text, 0o600 if "shadow" in name else 0o644)
        self.remove_backups()

    def remove_backups(self) -> None:
        """Remove passwd- and its like: they are of the time before."""
        for name in _BACKUPS:
            self.guest.remove(f"/etc/{name}-")

    @property
    def day(self) -> str:
        """The day of all passwords' last change; 0 would force a change at the first login."""
        return str(max(1, self.guest.epoch // 86400))

    def settle_days(self) -> None:
        """Have no password changed after the epoch: scripts' programs write today."""
        for row in self.tables["shadow"]:
            if len(row) > 2 and row[2].isdigit() and int(row[2]) > int(self.day):
                row[2] = self.day

    def row(self, table: str, name: str) -> Row | None:
        """The row of a name."""
        return next((row for row in self.tables[table] if row[0] == name), None)

    def set_password(self, name: str, entry: str) -> None:
        """The account's hash, "" to lock it."""
        row = self.row("shadow", name)
        if row is None:
            row = [name, "", "", "0", "99999", "7", "", "", ""]
            self.tables["shadow"].append(row)
        row += [""] * (9 - len(row))
        row[1], row[2] = entry or _LOCKED, self.day
        passwd = self.row("passwd", name)
        if passwd is not None:
            passwd[1] = "x"

    def add_group(self, name: str, gid: int | None, prefer: int | None = None) -> int:
        """Make a group unless it is there; its gid. prefer: taken if it is free."""
        there = self.row("group", name)
        if there is not None:
            if gid is not None and there[2] != str(gid):
                raise Fault(f"the group {name} has the gid {there[2]} and not {gid}")
            return int(there[2])
        taken = {int(row[2]) for row in self.tables["group"] if len(row) > 2 and row[2].isdigit()}
        if gid is not None and gid in taken:
            raise Fault(f"the gid {gid} of the group {name} is taken")
        if gid is None:
            gid = prefer if prefer is not None and prefer not in taken else None
        if gid is None:
            gid = _lowest(self._limit("GID_MIN"), taken, f"the group {name}")
        self.tables["group"].append([name, "x", str(gid), ""])
        if self.tables["gshadow"]:
            self.tables["gshadow"].append([name, "!", "", ""])
        return gid

    def add_user(self, user: dict[str, Any]) -> None:
        """Make an account with its home, or bring one that is there to what is asked."""
        name = user["name"]
        there = self.row("passwd", name)
        uid, gid = self._ids(user, there)
        home = user["home"] or (there[5] if there else f"/home/{name}")
        row = [name, "x", str(uid), str(gid), user["gecos"], home, user["shell"]]
        if there is None:
            self.tables["passwd"].append(row)
            self._add_subordinate(name)
        else:
            there[:] = row
        self.set_password(name, user["hash"])
        if not self.guest.is_file(user["shell"]):
            raise Fault(f"{name}: the shell {user['shell']} is not in the guest: add its package")
        self.guest.copy_home("/etc/skel", home, uid, gid, self._home_mode())
        if user["keys"]:
            self.guest.set_keys(home, user["keys"], uid, gid)

    def ids_of(self, owner: str, group: str) -> tuple[int, int]:
        """The numbers of an owner and a group, given by name or number."""
        found = []
        for table, name in (("passwd", owner), ("group", group)):
            row = self.row(table, name)
            if row is None and not name.isdigit():
                what = "user" if table == "passwd" else "group"
                raise Fault(f"the guest has no {what} {name}: add its package, or make it")
            found.append(int(row[2]) if row else int(name))
        return found[0], found[1]

    def _ids(self, user: dict[str, Any], there: Row | None) -> tuple[int, int]:
        name, uid = user["name"], user["uid"]
        lowest = self._limit("UID_MIN")
        if there is not None:
            if int(there[2]) < lowest and uid is None:
                raise Fault(f"{name} is an account of the system's, with the uid {there[2]}")
            if uid is not None and int(there[2]) != uid:
                raise Fault(f"{name} is there with the uid {there[2]} and not {uid}")
            return int(there[2]), int(there[3])
        taken = {int(row[2]) for row in self.tables["passwd"] if len(row) > 2 and row[2].isdigit()}
        if uid is not None and uid in taken:
            raise Fault(f"the uid {uid} of {name} is taken")
        if uid is None:
            uid = _lowest(lowest, taken | user["reserved"], f"the user {name}")
        if self.row("group", name) is not None and name not in user["made"]:
            raise Fault(
                f"there is a group {name} already, and the user {name} has one of its own: choose "
                "another name"
            )
        return uid, self.add_group(name, None, uid)

    def join(self, group: str, name: str) -> None:
        """Have a user in a group."""
        row = self.row("group", group)
        if row is None:
            raise Fault(
                f"{name}: there is no group {group}: add its package, or name it in user_groups"
            )
        for each in (row, self.row("gshadow", group)):
            if each is not None:
                each.extend([""] * (4 - len(each)))
                members = [member for member in each[3].split(",") if member]
                each[3] = ",".join(members if name in members else [*members, name])

    def _limit(self, word: str) -> int:
        match = re.search(rf"^\s*{word}\s+(\d+)\s*$", self.guest.text("/etc/login.defs"), re.M)
        return int(match[1]) if match else 1000

    def _home_mode(self) -> int:
        text = self.guest.text("/etc/login.defs")
        match = re.search(r"^\s*HOME_MODE\s+([0-7]{3,4})\s*$", text, re.M)
        if match:
            return int(match[1], 8)
        match = re.search(r"^\s*UMASK\s+([0-7]{3,4})\s*$", text, re.M)
        return 0o777 & ~int(match[1], 8) if match else 0o700

    def _add_subordinate(self, name: str) -> None:
        """The ids that a user's own containers map, where the guest keeps any."""
        for file in ("/etc/subuid", "/etc/subgid"):
            if not self.guest.is_file(file):
                continue
            rows = [line.split(":") for line in self.guest.text(file).splitlines()]
            if any(row[0] == name for row in rows):
                continue
            ends = [int(r[1]) + int(r[2]) for r in rows if len(r) == 3 and r[1].isdigit()]
            rows.append([name, str(max([_FIRST_SUBORDINATE, *ends])), str(_SUBORDINATE)])
            self.guest.set_text(file, "".join(f"{':'.join(row)}\n" for row in rows))


def _lowest(first: int, taken: set[int], what: str) -> int:
    for number in range(first, _MOST + 1):
        if number not in taken:
            return number
    raise Fault(f"no id is free for {what}")
