"""Sets the guest up: reads a plan on standard input, writes what it found on standard output.

The first call edits files and writes the programs' steps as a script for the guest's shell; the
second, "tidy", removes that and what the steps left of the time; the last, "settle", has no file of
the layer be newer than the epoch. Nothing is written where the guest's root could lead out of it:
this process has made it its own "/".
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.builders.packages.inside import system
from pipeline.builders.packages.inside.accounts import Accounts
from pipeline.builders.packages.inside.places import Fault, Guest, copy_all, write_all
from pipeline.builders.packages.inside.system import Step

PLACE = "/.image-pipeline"
"""Where the steps lie while they are run."""
BEGIN, END, DONE = "#step", "#status", "#done"
_UTF8 = "C.UTF-8"


def main(plan: dict[str, Any]) -> None:
    """Do what the plan asks, and say faults, notes and steps as one line of JSON."""
    if plan["action"] == "settle":
        settle(plan["root"], plan["epoch"])
        sys.stdout.write("{}\n")
        return
    for file in plan.get("files", ()):
        if file["source"] and file["fd"] is None:
            file["fd"] = os.open(file["source"], os.O_RDONLY | os.O_CLOEXEC)
    os.chroot(plan["root"])
    os.chdir("/")
    os.umask(0o022)
    guest = Guest(plan["epoch"])
    try:
        answer = tidy(guest) if plan["action"] == "tidy" else set_up(guest, plan)
    except (Fault, OSError, ValueError, IndexError) as error:
        answer = {"faults": [words(error)]}
    sys.stdout.write(json.dumps(answer | {"notes": guest.notes}) + "\n")


def words(error: Exception) -> str:
    """An error in words."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) if isinstance(error, Fault) else f"{type(error).__name__}: {error}"


def set_up(guest: Guest, plan: dict[str, Any]) -> dict[str, Any]:
    """All settings; every fault is collected."""
    guest.remove(PLACE)
    faults: list[str] = []
    steps: list[Step] = []

    def attempt(action: Callable[..., list[Step] | None], *arguments: Any) -> None:
        try:
            steps.extend(action(*arguments) or ())
        except (Fault, OSError, ValueError, IndexError) as error:
            faults.append(words(error))

    accounts = Accounts.read(guest)
    attempt(set_accounts, accounts, plan, faults)
    attempt(system.set_locale, guest, plan["locale"], plan["backend"])
    attempt(system.set_timezone, guest, plan["timezone"], plan["backend"])
    attempt(system.set_names, guest, plan["hostname"], plan["keyboard"], plan["backend"])
    attempt(system.set_selinux, guest, plan["selinux"])
    for file in plan["files"]:
        attempt(put_file, guest, accounts, file)
    attempt(system.set_services, guest, plan["services_enabled"], plan["services_disabled"])
    attempt(system.set_firewall, guest, plan["firewall"])
    for number, script in enumerate(plan["scripts"]):
        attempt(add_script, guest, number, script)
    if steps and not faults:
        text = plan_text(steps, plan["epoch"], utf8=bool(guest.find("localedef")))
        write_private(guest, f"{PLACE}/plan", text.encode())
    return {
        "faults": faults,
        "steps": [{"what": step.what, "needed": step.needed} for step in steps],
    }


def set_accounts(accounts: Accounts, plan: dict[str, Any], faults: list[str]) -> None:
    """Groups, users and passwords; written where nothing is wrong with any."""
    guest, count = accounts.guest, len(faults)
    reserved = {user["uid"] for user in plan["users"] if user["uid"] is not None}
    made = [group["name"] for group in plan["user_groups"]]
    accounts.set_password("root", plan["root_hash"])
    # Users before groups without a gid, so that a user's own group has the number of the user.
    groups = sorted(plan["user_groups"], key=lambda group: group["gid"] is None)
    fixed = sum(group["gid"] is not None for group in groups)
    actions: list[Callable[[], object]] = [
        partial(accounts.add_group, group["name"], group["gid"]) for group in groups
    ]
    actions[fixed:fixed] = [
        partial(accounts.add_user, user | {"reserved": reserved, "made": made})
        for user in plan["users"]
    ]
    actions += [
        partial(accounts.join, group, user["name"])
        for user in plan["users"]
        for group in user["groups"]
    ]
    for action in actions:
        try:
            action()
        except (Fault, OSError) as error:
            faults.append(words(error))
    root = accounts.row("passwd", "root")
    if plan["root_keys"] and root is not None:
        guest.set_keys(root[5], plan["root_keys"], 0, 0)
    if len(faults) == count:
        accounts.write()


def put_file(guest: Guest, accounts: Accounts, file: dict[str, Any]) -> None:
    """One file with its owner, mode and content."""
    path = file["path"]
    try:
        uid, gid = accounts.ids_of(file["owner"], file["group"])
    except Fault as error:
        raise Fault(f"{path}: {error}") from None
    target = guest.at(path)
    guest.make_parents(path, target.parent)
    if file["fd"] is None:
        data = base64.b64decode(file["content"])
        guest.put(target, lambda fd: write_all(fd, data), uid, gid, int(file["mode"], 8))
    else:
        guest.put(target, lambda fd: copy_all(file["fd"], fd), uid, gid, int(file["mode"], 8))


def add_script(guest: Guest, number: int, script: dict[str, Any]) -> list[Step]:
    """Write a script where its step finds it."""
    data = base64.b64decode(script["content"])
    path = f"{PLACE}/script{number}"
    command = f"/bin/sh {path}"
    if data.startswith(b"#!"):
        interpreter = (data[2:].split(b"\n", 1)[0].split() or [b""])[0].decode(errors="replace")
        if not os.access(guest.at(interpreter), os.X_OK) or not interpreter.startswith("/"):
            raise Fault(
                f"{script['name']}: its interpreter {interpreter} is not in the guest: add its "
                "package"
            )
        command = path
    write_private(guest, path, data)
    return [Step(f"run the script {script['name']}", command, script["needed"])]


def write_private(guest: Guest, path: str, data: bytes) -> None:
    """A file that root alone reads and runs."""
    place = guest.at(PLACE)
    place.mkdir(0o700, exist_ok=True)
    guest.put(guest.at(path), lambda fd: write_all(fd, data), 0, 0, 0o700)


def plan_text(steps: list[Step], epoch: int, *, utf8: bool) -> str:
    """The steps as a script of the guest's sh(1), which says where each begins and how it ended.

    It ends at the first needed step that fails, with status 0: what failed is in what it says.
    """
    lines = [
        "exec 2>&1 </dev/null",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root",
        f"LC_ALL={_UTF8 if utf8 else 'C'} DEBIAN_FRONTEND=noninteractive TERM=dumb",
        f"SOURCE_DATE_EPOCH={epoch} LOGNAME=root USER=root SHELL=/bin/sh",
        "export PATH HOME LC_ALL DEBIAN_FRONTEND TERM SOURCE_DATE_EPOCH LOGNAME USER SHELL",
        "umask 022; cd /",
    ]
    for number, step in enumerate(steps):
        lines += [
            f"printf '\\n%s\\n' {shlex.quote(f'{BEGIN} {number}')}",
            f"( {step.command} ); status=$?",
            f"printf '\\n%s\\n' \"{END} {number} $status\"",
        ]
        if step.needed:
            lines.append('test "$status" = 0 || exit 0')
    return "\n".join([*lines, f"printf '\\n%s\\n' '{DONE}'"]) + "\n"


def settle(upper: str, epoch: int) -> None:
    """Have nothing in the layer be newer than the epoch; a link is not followed."""
    for directory, names, files in os.walk(upper, topdown=False):
        for path in (*(f"{directory}/{name}" for name in (*names, *files)), directory):
            if os.lstat(path).st_mtime > epoch:
                os.utime(path, (epoch, epoch), follow_symlinks=False)


def tidy(guest: Guest) -> dict[str, Any]:
    """Remove the steps and what they left of the time."""
    guest.remove(PLACE)
    accounts = Accounts.read(guest)
    accounts.settle_days()
    accounts.write()
    return {"faults": []}
