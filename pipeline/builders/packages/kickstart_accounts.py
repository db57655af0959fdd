"""A kickstart's accounts: rootpw, user, group and sshkey."""

from __future__ import annotations

import re
from typing import Any

from pipeline.builders.installer.kickstart_syntax import Command
from pipeline.builders.installer.passwords import is_hash_or_lock, placeholder
from pipeline.builders.packages.kickstart_words import Words
from pipeline.core.environment import FromEnvironment
from pipeline.core.packages import User, UserGroup, is_password_hash

_MEMBER = re.compile(r"([^()\s]+)\((\d+)\)")


def take_accounts(words: Words) -> None:
    """Root's password, groups, users and their keys."""
    _take_root(words)
    groups: dict[str, UserGroup] = {}
    for data in words.real.data("group", "groupList") or ():
        made = words.made(data.lineno, UserGroup, name=data.name, gid=_number(data.gid))
        groups |= {data.name: made} if made else {}
    keys: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    for data in words.real.data("sshkey", "sshUserList") or ():
        keys.setdefault(data.username, []).append(data.key)
        lines[data.username] = data.lineno
    users = []
    marks = {u.lineno: u.password or "" for u in words.judged.data("user", "userList") or ()}
    for data in words.real.data("user", "userList") or ():
        user = _user(words, data, marks.get(data.lineno, ""), groups, keys.pop(data.name, []))
        users += [user] if user else []
    if "root" in keys:
        words.field(lines["root"], "root_ssh_keys", tuple(keys.pop("root")))
    for name in keys:
        words.refuse(lines[name], f"sshkey: no command makes the user {name}")
    if users:
        words.field(words.line("user"), "users", tuple(users))
    if groups:
        line = words.line("group") or words.line("user")
        words.field(line, "user_groups", tuple(groups.values()))


def _take_root(words: Words) -> None:
    judged = {command.line: command for command in words.judged.named("rootpw")}
    for command in words.real.named("rootpw"):
        entries = (_entry(command), _entry(judged.get(command.line, command)))
        crypted, locked = command.has("--iscrypted"), command.has("--lock")
        entry = _password(words, command.line, "rootpw", entries, crypted=crypted, locked=locked)
        words.field(command.line, "root_password_hash", entry)


def _entry(command: Command) -> str:
    return next((word for word in command.words[:0:-1] if not word.startswith("--")), "")


def _user(
    words: Words, data: Any, mark: str, groups: dict[str, UserGroup], keys: list[str]
) -> User | None:
    entry = _password(
        words,
        data.lineno,
        f"user {data.name}",
        (data.password or "", mark),
        crypted=bool(data.isCrypted),
        locked=bool(data.lock),
    )
    member_of = []
    for word in data.groups:
        match = _MEMBER.fullmatch(word.strip())
        name = match[1] if match else word.strip()
        if match and name not in groups:
            made = words.made(data.lineno, UserGroup, name=name, gid=int(match[2]))
            groups |= {name: made} if made else {}
        member_of.append(name)
    if getattr(data, "gid", None):
        words.leave_out(data.lineno, f"user {data.name} --gid", "its group has a free gid")
    user: User | None = words.made(
        data.lineno,
        User,
        name=data.name,
        uid=_number(data.uid),
        groups=tuple(member_of),
        shell=data.shell or "/bin/bash",
        gecos=getattr(data, "gecos", "") or "",
        home=data.homedir or "",
        password=entry,
        ssh_keys=tuple(keys),
    )
    return user


def _password(
    words: Words, line: int, what: str, entries: tuple[str, str], *, crypted: bool, locked: bool
) -> str | FromEnvironment:
    """A hash, or where it comes from; "" for a locked account and after a fault.

    entries: the entry with its value, and with the placeholder for one from the environment.
    """
    entry, mark = entries
    if locked or not entry:
        return ""
    if not crypted:
        if mark != entry:  # in clear text it was told already
            words.refuse(
                line, f"{what}: nothing hashes a password without an installer: have the "
                "variable hold what `openssl passwd -6` prints, and write --iscrypted"
            )  # fmt: skip
        return ""
    if is_password_hash(entry):
        variables = words.variables.items()
        return next(
            (v for n, v in variables if mark == placeholder(n) and not isinstance(v, str)), entry
        )
    if mark != entry or not is_hash_or_lock(entry) or entry[:1].isalnum():
        words.refuse(
            line, f"{what}: the password is no hash in crypt(5)'s modular form; write what "
            "`openssl passwd -6` prints"
        )  # fmt: skip
    return ""


def _number(value: Any) -> int | None:
    return None if value is None or value == "" else int(value)
