"""What of a preseed cannot end in an image, or would write a secret down.

The machine has one blank disk, and of what is installed on it the image takes the root and /boot.
Sources: Debian installation guide, appendix B; partman-auto's documentation of recipes
("partman-auto-recipe.txt"); the udebs' templates for names of questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pipeline.builders.installer.answer_text import Finding
from pipeline.builders.installer.install_target import DISK, is_machines_disk
from pipeline.builders.installer.passwords import (
    REMEDY,
    in_script,
    in_url,
    is_clear,
    is_hash_or_lock,
)
from pipeline.builders.installer.preseed import EARLY, LATE, Question, questions
from pipeline.core.system_places import is_essential
from pipeline.core.text import did_you_mean

_TYPES = ("string", "boolean", "select", "multiselect", "password", "note", "text", "seen")
_COMMANDS = (EARLY, LATE, "partman/early_command")
_POWEROFF = "debian-installer/exit/poweroff"
_ELSEWHERE = ("preseed/include", "preseed/url", "preseed/run", "preseed/file")
_SECRET = re.compile(
    r"password(?!-crypted|-disabled|-empty)(?:-again|[0-9])?$|passphrase(?:-again)?$|wireless_w(?:pa|ep)$"
    r"|(?:^|/)(?:[a-z-]*secret|[a-z_-]*passwd|admin-?pw|adminpw|app-pass)$"
)
_BARE_PROXY = re.compile(r"^[^/@\s:]+:([^/@\s]+)@")
_LOADER_HASH = re.compile(r"grub\.pbkdf2\.\S+")
_SPECIFIER = re.compile(r"([a-z_$][a-z_0-9]*)\{\s*([^}]*?)\s*\}")
_METHODS = {"crypto": "is encrypted", "raid": "is RAID", "crypto_keep": "is encrypted"}
_ROOTS = ("", "ext2", "ext3", "ext4", "xfs")
_WRITE_LVM = "write partman-auto/method string lvm (or regular)"
_OWN_VAR = ("multi", "server", "small_var")


def preseed_findings(text: str) -> Iterator[Finding]:
    """Everything wrong with a preseed, with placeholders for values from the environment."""
    answers: dict[str, Question] = {}
    lines = text.splitlines()
    for question in questions(text):
        for number in range(question.first + 1, question.last + 1):
            if lines[number - 1].lstrip().startswith("#"):
                yield Finding(
                    number,
                    f"this line is no comment but part of the answer to {question.name}, and a "
                    "shell takes all behind it for a comment: put it before the answer",
                    fatal=False,
                )
        if question.name in answers and question.name in _COMMANDS:
            yield Finding(
                answers[question.name].first, f"{question.name} is given twice, and only the last "
                "one runs: join them with \";\"", other=question.first, fatal=False
            )  # fmt: skip
        answers[question.name] = question
        yield from _form(question)
        yield from _secrets(question)
    yield from _disks(answers)
    yield from _partitions(answers)
    yield from _kernel(answers)
    power = answers.get(_POWEROFF)
    if power is None or power.value != "true":
        yield Finding(
            power.first if power else 0,
            f"{_POWEROFF} must be true: the pipeline waits for a clean power-off; write "
            f"d-i {_POWEROFF} boolean true",
        )


def _form(question: Question) -> Iterator[Finding]:
    name, kind, value, line = question.name, question.kind, question.value, question.first
    if not kind:
        yield Finding(line, "a question needs owner, name and type")
    elif kind not in _TYPES:
        yield Finding(line, f"unknown type {kind}{did_you_mean(kind, _TYPES)}")
    elif kind == "boolean" and value not in ("true", "false"):
        yield Finding(line, f"{name} is boolean and its value is {value!r}")
    if name.startswith(_ELSEWHERE) and value:
        what = "run a script" if name.startswith("preseed/run") else "fetch answers"
        yield Finding(line, f"{name} would {what} not kept with the build; put it into this file")


def _secrets(question: Question) -> Iterator[Finding]:
    """Passwords in clear text, by the question's name or its type, and in URLs."""
    name, value, line = question.name, question.value, question.first
    if name.endswith("-crypted"):
        hashed = is_hash_or_lock(value) or _LOADER_HASH.fullmatch(value)
        if is_clear(value) and not hashed:
            yield Finding(
                line, f"{name}: the value is no crypt(5) hash; write what `openssl passwd -6` "
                "prints, or * if nobody shall log in by it"
            )  # fmt: skip
    elif is_clear(value) and question.kind != "seen" and question.name not in _COMMANDS:
        if question.kind == "password" or (question.kind != "boolean" and _SECRET.search(name)):
            crypted = " use passwd's ...-password-crypted, or" if name.startswith("passwd/") else ""
            yield Finding(line, f"{name} in clear text;{crypted} {REMEDY}")
        bare = _BARE_PROXY.search(value) if name.endswith("/proxy") else None
        if any(in_url(value)) or (bare and is_clear(bare[1])):
            yield Finding(line, f"{name}: a password in a URL; {REMEDY}")
    if question.name in _COMMANDS and any(in_script(value)):
        yield Finding(
            line, f"{name} seems to have a password in clear text; it is hidden in the text that "
            f"is kept with the build: {REMEDY}", fatal=False
        )  # fmt: skip


def _disks(answers: Mapping[str, Question]) -> Iterator[Finding]:
    for name in ("partman-auto/disk", "grub-installer/bootdev", "grub-installer/choose_bootdev"):
        question = answers.get(name)
        if question is None or question.kind == "seen":
            continue
        for word in question.value.split():
            if word in ("default", "manual", "(hd0)", "(hd0,0)") or is_machines_disk(word):
                continue
            if name.startswith("grub-installer/") and word.startswith(f"/dev/{DISK}"):
                continue
            yield Finding(
                question.first, f"{name} names {word}, and the machine's only disk is /dev/{DISK}: "
                f"write /dev/{DISK}"
            )  # fmt: skip
    for name in (EARLY, "partman/early_command"):
        question = answers.get(name)
        if question and DISK not in question.value:
            other = re.search(r"/dev/(?:[sh]d[a-z]|xvd[a-z]|nvme\d+n\d+)\b", question.value)
            if other:
                yield Finding(
                    question.first, f"{name} names {other[0]}, and the machine's only disk is "
                    f"/dev/{DISK}", fatal=False
                )  # fmt: skip


def _partitions(answers: Mapping[str, Question]) -> Iterator[Finding]:
    method = answers.get("partman-auto/method")
    if method and method.value in ("crypto", "raid"):
        what = "encrypted" if method.value == "crypto" else "RAID"
        yield Finding(
            method.first, f"partman-auto/method {method.value}: the root is {what}, and no image "
            f"can be made of that; {_WRITE_LVM}"
        )  # fmt: skip
    guided = answers.get("partman-auto/init_automatically_partition")
    if guided and "crypt" in guided.value.lower():
        yield Finding(
            guided.first,
            f"partman-auto/init_automatically_partition {guided.value}: the root is encrypted, and "
            f"no image can be made of that; {_WRITE_LVM}",
        )
    recipe = answers.get("partman-auto/expert_recipe")
    chosen = answers.get("partman-auto/choose_recipe")
    if recipe and recipe.value:
        yield from _expert(recipe)
    elif chosen and chosen.value.split("/")[-1].removesuffix("_scheme") in _OWN_VAR:
        yield Finding(
            chosen.first, f"partman-auto/choose_recipe {chosen.value} puts /var on a volume of its "
            "own, and no system runs without it: write atomic"
        )  # fmt: skip
    filesystem = answers.get("partman/default_filesystem")
    if filesystem and filesystem.value not in _ROOTS:
        yield Finding(
            filesystem.first, f"partman/default_filesystem: the root is {filesystem.value}, and no "
            "image can be made of that; write ext4 or xfs"
        )  # fmt: skip
    named = ("partman-auto/", "partman/early_command", "preseed/early_command", "ubiquity/")
    if not any(name.startswith(named) for name in answers):
        yield Finding(
            0, f"nothing says how to lay out the disk, and the installer will ask; {_WRITE_LVM}",
            fatal=False,
        )  # fmt: skip


def _expert(recipe: Question) -> Iterator[Finding]:
    """A recipe of one's own: `NAME :: SIZES KIND specifier{ value } ... . SIZES KIND ... .`"""
    points: dict[str, str] = {}
    volumes: set[str] = set()
    _, _, body = recipe.value.partition("::")
    for part in re.split(r"\s\.(?=\s|$)", body):
        found = dict(_SPECIFIER.findall(part))
        point = found.get("mountpoint", "").rstrip("/") or found.get("mountpoint", "")
        volume = found.get("lv_name", "")
        if volume and volume in volumes:
            yield Finding(recipe.first, f"the recipe has two logical volumes {volume}: rename one")
        volumes.add(volume)
        if not point:
            continue
        if point in points:
            yield Finding(recipe.first, f"the recipe mounts {point} twice: keep one")
        points[point] = part
        yield from _mounted(recipe, point, found)
    if body.strip() and "/" not in points:
        yield Finding(recipe.first, "the recipe has no root: give a partition mountpoint{ / }")


def _mounted(recipe: Question, point: str, found: Mapping[str, str]) -> Iterator[Finding]:
    kind = found.get("filesystem", "").removeprefix("$default_filesystem")
    problem = _METHODS.get(found.get("method", ""), "" if kind in _ROOTS else f"is {kind}")
    if point in ("/", "/boot"):
        if problem and not (point == "/boot" and kind in ("fat16", "fat32")):
            yield Finding(
                recipe.first, f"in the recipe {point} {problem}, and no image can be made of that: "
                "write filesystem{ ext4 } in a plain partition or logical volume"
            )  # fmt: skip
    elif point.startswith("/") and point not in ("/boot/efi", "/efi"):
        essential = is_essential(point)
        what = "no system runs without it" if essential else "its content is lost"
        yield Finding(
            recipe.first, f"in the recipe {point} is on a volume of its own, the image is the root "
            f"alone, and {what}: remove it from the recipe", fatal=essential
        )  # fmt: skip


def _kernel(answers: Mapping[str, Question]) -> Iterator[Finding]:
    kernel = answers.get("base-installer/kernel/image")
    if kernel and kernel.value == "none":
        yield Finding(
            kernel.first, "base-installer/kernel/image none installs no kernel, and an image needs "
            "one: write linux-image-amd64"
        )  # fmt: skip
