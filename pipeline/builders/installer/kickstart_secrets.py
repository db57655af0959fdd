"""Secrets in a kickstart: every command and script that carries one in clear text.

Source: pykickstart 3, "Kickstart Syntax Reference", for the options that carry secrets.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from pipeline.builders.installer.answer_text import SCRIPTS, Finding
from pipeline.builders.installer.kickstart_syntax import Command, Kickstart
from pipeline.builders.installer.passwords import (
    PLACEHOLDER,
    REMEDY,
    in_script,
    in_url,
    is_clear,
    is_hash,
    is_hash_or_lock,
)

_LOADER_HASH = re.compile(r"grub\.pbkdf2\.\S+")
_NAMES = (
    *("--password", "--passphrase", "--hw-passphrase", "--reverse-password"),
    *("--one-time-password", "--md5pass", "--wepkey", "--wpakey", "--activation-key"),
)
_VALUE = re.compile(PLACEHOLDER + r"-(\w+)-")
_BARE_PROXY = re.compile(r"^[^/@\s:]+:([^/@\s]+)@")
_MOUNT_OPTION = re.compile(r"(?:^|[,;\s])(?:password|passwd|pass)=([^,;\s]+)")
_JOIN = re.compile(r"%(.+)")


def clear_text(kickstart: Kickstart) -> Iterator[Finding]:
    """Secrets in clear text; the kickstart was read with placeholders for those that are not."""
    yield from _accounts(kickstart)
    for command in kickstart.commands:
        if command.name not in ("rootpw", "user", "sshpw"):
            yield from _options(command)
        yield from _other_forms(command)
    for number, line in kickstart.scripts(*SCRIPTS):
        if any(in_script(line)):
            yield Finding(
                number,
                "the script seems to have a password in clear text; it is hidden in the text that "
                f"is kept with the build, and stays in the image if the script leaves it: {REMEDY}",
                fatal=False,
            )


def cut_values(real: Kickstart, judged: Kickstart, values: Mapping[str, str]) -> Iterator[Finding]:
    """Values from the environment that a command takes apart: "#", blanks, quotation marks.

    real: with the values; judged: with a placeholder for each.
    """
    taken = {command.line: command.words for command in real.commands}
    for command in judged.commands:
        if not any(_VALUE.search(word) for word in command.words):
            continue
        whole = tuple(_VALUE.sub(lambda m: values[m[1]], word) for word in command.words)
        if taken.get(command.line, whole) != whole:
            yield Finding(
                command.line,
                f"{command.name}: a value from the environment would not arrive whole, for #, "
                "blanks, quotation marks and backslashes mean something there; write the mark "
                "between quotation marks, or choose another value",
            )


def complaints(real: Kickstart, judged: Kickstart, told: Collection[int]) -> Iterator[Finding]:
    """pykickstart's complaints, but for words of a value from the environment.

    It quotes the words that it did not expect, and where it took a value apart those are pieces of
    a secret. real: with the values; judged: with a placeholder for each. told: lines of which
    enough is said elsewhere.
    """
    for complaint in real.complaints:
        number = complaint.line
        secret = 0 < number <= len(real.lines) and (
            real.lines[number - 1] != judged.lines[number - 1]
        )
        if not secret:
            yield complaint
        elif number not in told:
            same = [other for other in judged.complaints if other.line == number]
            text = "the value from the environment is none that can stand here"
            yield from same or [Finding(number, text)]


def _accounts(kickstart: Kickstart) -> Iterator[Finding]:
    """rootpw, user and sshpw: a hash, a lock, or a value from the environment."""
    for command in kickstart.named("rootpw"):
        words = [word for word in command.words[1:] if not word.startswith("--")]
        if words or not kickstart.failed & {"rootpw"}:
            yield from _account(
                "rootpw",
                command.line,
                words[-1] if words else "",
                crypted=command.has("--iscrypted"),
                locked=command.has("--lock"),
            )
    for kind, attribute in (("user", "userList"), ("sshpw", "sshUserList")):
        for user in kickstart.data(kind, attribute) or ():
            if not getattr(user, "sshkey", False):
                yield from _account(
                    f"{kind} {getattr(user, 'name', '') or getattr(user, 'username', '')}",
                    user.lineno,
                    user.password or "",
                    crypted=bool(getattr(user, "isCrypted", False)),
                    locked=bool(getattr(user, "lock", False)),
                )


def _account(
    what: str, line: int, password: str, *, crypted: bool, locked: bool
) -> Iterator[Finding]:
    lock = "rootpw --lock" if what == "rootpw" else f"{what.split(maxsplit=1)[0]} --lock"
    if not password:
        if what == "rootpw" and not locked:
            yield Finding(line, f"{what}: no password at all, so anybody can log in; write {lock}")
    elif not is_clear(password) or (locked and (crypted or is_hash_or_lock(password))):
        return
    elif not crypted:
        yield Finding(
            line, f"{what}: a password in clear text; give its hash with --iscrypted, or {REMEDY}"
        )
    elif not is_hash_or_lock(password):
        yield Finding(
            line,
            f"{what}: --iscrypted, and the password is no crypt(5) hash; write what "
            f"`openssl passwd -6` prints, or {lock} if nobody shall log in by it",
        )


def _options(command: Command) -> Iterator[Finding]:
    """Options that carry a secret, also where only the beginning of their name is written."""
    crypted = command.has("--iscrypted")
    for name, value in command.options():
        full = next((known for known in _NAMES if len(name) >= 5 and known.startswith(name)), "")
        if not full or not is_clear(value) or value.startswith("--"):
            continue
        hashed = command.name == "bootloader" and (crypted or full == "--md5pass")
        if hashed and (is_hash(value) or _LOADER_HASH.fullmatch(value)):
            continue
        if hashed:
            how = "it is no hash; write --iscrypted and what `grub2-mkpasswd-pbkdf2` prints"
        elif command.name == "bootloader":
            how = "a password in clear text; give its hash with --iscrypted"
        else:
            how = f"a secret in clear text; {REMEDY}"
        yield Finding(command.line, f"{command.name} {full}: {how}")


def _other_forms(command: Command) -> Iterator[Finding]:
    """Secrets inside the values of other options."""
    for word in command.words[1:]:
        if any(in_url(word)):
            yield Finding(command.line, f"{command.name}: a password in a URL; {REMEDY}")
    for name, value in command.options():
        patterns = {"--proxy": _BARE_PROXY, "--winbindjoin": _JOIN}
        match = patterns.get(name, _MOUNT_OPTION).search(value)
        if match and is_clear(match[1]):
            yield Finding(
                command.line, f"{command.name} {name}: a password in clear text; {REMEDY}"
            )
    for word in command.words[1:2] if command.name == "key" else ():
        if is_clear(word) and not word.startswith("-"):
            yield Finding(command.line, f"key: a registration key in clear text; {REMEDY}")
