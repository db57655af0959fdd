"""Boot loader entries and who orders them how: GRUB's blscfg and systemd-boot disagree.

Pure functions. Sources: UAPI.1 Boot Loader Specification; UAPI.10 Version Format Specification;
loader.conf(5) and systemd-boot(7); for GRUB's order, by the parts of the file's name, the
documentation of Fedora's BootLoaderSpec changes and of ostree (issue 2961 there).
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping, Sequence

from pipeline.core.versions import rpm_key
from pipeline.guest.boot.loader_config import Entry, plain_path
from pipeline.guest.boot.uki import Uki

_COUNTER = re.compile(r"^(?P<id>.+)\+(?P<left>\d+)(?:-(?P<done>\d+))?(?P<suffix>\.(?:conf|efi))$")
_FOREIGN = re.compile(r"^[^A-Za-z0-9.~^-]+")


def parse_entry(name: str, text: str, top: str, firmware: str = "x64") -> Entry | None:
    """One loader/entries/NAME; None if it boots no Linux here.

    top: where the volume that its paths start from is mounted. firmware: what the guest's UEFI
    calls its architecture.
    """
    fields: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split(None, 1)
        if words and not words[0].startswith("#"):
            fields.setdefault(words[0], []).append(words[1].strip() if len(words) > 1 else "")

    def one(key: str) -> str:
        return fields.get(key, [""])[-1]

    image = one("uki") or one("efi")
    if not (one("linux") or image) or one("architecture").lower() not in ("", firmware):
        return None
    identity, left, done = counted(name)
    ramdisks = tuple(path for value in fields.get("initrd", []) for path in value.split())
    return Entry(
        plain_path(one("linux") or image),
        # "$tuned_initrd" and the like are variables that are empty by default.
        tuple(plain_path(path) for path in ramdisks if "$" not in path),
        one("title"),
        identity.removesuffix(".conf"),
        one("version"),
        one("sort-key"),
        one("machine-id"),
        left,
        done,
        not one("linux"),
        top,
    )


def image_entry(path: str, uki: Uki, top: str) -> Entry:
    """A unified kernel image as an entry; its keys come from its os-release."""
    identity, left, done = counted(path.rpartition("/")[2])
    release = uki.release
    versions = ("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID")
    return Entry(
        path,
        title=release.get("PRETTY_NAME", ""),
        id=identity,
        version=next((release[key] for key in versions if release.get(key)), ""),
        sort_key=release.get("IMAGE_ID") or release.get("ID", ""),
        tries_left=left,
        tries_done=done,
        uki=True,
        top=top,
    )


def counted(name: str) -> tuple[str, int, int]:
    """A file name without its boot counter, tries left and tries done; -1 without a counter."""
    match = _COUNTER.match(name)
    if not match:
        return name, -1, -1
    return match["id"] + match["suffix"], int(match["left"]), int(match["done"] or 0)


def grub_order(entries: Iterable[Entry]) -> list[Entry]:
    """The order of GRUB's blscfg: by the name of the file alone, split as a package's name is.

    Neither sort-key nor version nor a counter is looked at. A rescue entry's version begins with
    "0-rescue", so it comes last.
    """

    def key(entry: Entry) -> tuple[object, ...]:
        name, version, release = _package(_file_name(entry))
        return rpm_key(name), rpm_key(version), rpm_key(release), entry.id

    return sorted(entries, key=key, reverse=True)


def _file_name(entry: Entry) -> str:
    """The entry's file as it is named, counter and all: GRUB does not count."""
    if entry.tries_left < 0:
        return entry.id
    return f"{entry.id}+{entry.tries_left}" + (f"-{entry.tries_done}" if entry.tries_done else "")


def _package(text: str) -> tuple[str, str, str]:
    """Name, version and release: what the last two hyphens divide."""
    parts = text.rsplit("-", 2)
    return (parts[0], parts[1] if len(parts) > 1 else "", parts[2] if len(parts) > 2 else "")


def loader_order(entries: Iterable[Entry]) -> list[Entry]:
    """systemd-boot's order: sort-key, machine-id and version; entries without a sort-key behind
    them, by name; those that have no tries left at the end.
    """
    return sorted(entries, key=functools.cmp_to_key(_compare))


def _compare(a: Entry, b: Entry) -> int:
    left: tuple[object, ...] = (a.tries_left == 0, not a.sort_key)
    right: tuple[object, ...] = (b.tries_left == 0, not b.sort_key)
    if left == right and a.sort_key:
        left, right = (a.sort_key, a.machine_id), (b.sort_key, b.machine_id)
        if left == right and (order := compare_versions(b.version, a.version)):
            return order
    # The firmware's file names do not tell upper case from lower.
    if left == right and (order := compare_versions(_whole_id(b).lower(), _whole_id(a).lower())):
        return order
    if left == right and a.tries_left >= 0 and b.tries_left >= 0:
        left, right = (-a.tries_left, a.tries_done), (-b.tries_left, b.tries_done)
    return (left > right) - (left < right)


def loader_default(entries: Sequence[Entry], config: str = "") -> Entry | None:
    """What systemd-boot boots of `entries`, which are in its order.

    config: loader.conf. What the firmware's variables remember ("@saved", a choice made in the
    menu) does not travel with a disk: the first entry then, as on a machine that never booted.
    """
    settings = loader_settings(config)
    # "preferred" passes over what counts as bad, "default" does not (loader.conf(5) of 260).
    fit = [entry for entry in entries if entry.tries_left != 0]
    for among, setting in ((fit, "preferred"), (entries, "default")):
        pattern = settings.get(setting, "").lower()
        if pattern and not pattern.startswith("@"):
            found = next((e for e in among if _matches(e, pattern)), None)
            if found is not None:
                return found
    return next(iter(entries), None)


def loader_settings(config: str) -> dict[str, str]:
    """The settings of a loader.conf."""
    settings = {}
    for line in config.splitlines():
        words = line.split(None, 1)
        if len(words) == 2 and not words[0].startswith("#"):
            settings[words[0]] = words[1].strip()
    return settings


def _matches(entry: Entry, pattern: str) -> bool:
    """By the file's name with its suffix; names of old configurations come without."""
    names = {_whole_id(entry).lower(), entry.id.lower()}
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _whole_id(entry: Entry) -> str:
    return entry.id if entry.id.endswith(".efi") else f"{entry.id}.conf"


def compare_versions(a: str, b: str) -> int:
    """Negative, 0 or positive as `a` is older than, equal to or newer than `b` (UAPI.10)."""
    while True:
        a, b = _FOREIGN.sub("", a), _FOREIGN.sub("", b)
        if a[:1] == "~" or b[:1] == "~":
            if a[:1] != b[:1]:
                return -1 if a[:1] == "~" else 1
            a, b = a[1:], b[1:]
            continue
        if not a or not b:
            return bool(a) - bool(b)
        sign = next((sign for sign in "-^." if sign in (a[0], b[0])), "")
        if sign:
            if a[0] != b[0]:
                return -1 if a[0] == sign else 1
            a, b = a[1:], b[1:]
            continue
        digits = a[0].isdigit() or b[0].isdigit()
        order, a, b = _compare_parts(a, b, r"[0-9]*" if digits else r"[A-Za-z]*", digits=digits)
        if order:
            return order


def _compare_parts(a: str, b: str, pattern: str, *, digits: bool) -> tuple[int, str, str]:
    """The order of the first parts, and what is behind them."""
    parts = []
    for text in (a, b):
        match = re.match(pattern, text)
        assert match is not None
        parts.append(match[0])
    left: tuple[int, int] | str = parts[0]
    right: tuple[int, int] | str = parts[1]
    if digits:
        # No number at all is older than any, than 0 too.
        left, right = ((bool(p), int(p or "0")) for p in parts)
    order = (left > right) - (left < right)  # type: ignore[operator] # like with like
    return order, a[len(parts[0]) :], b[len(parts[1]) :]


def entries_of(texts: Mapping[str, str], top: str, firmware: str = "x64") -> list[Entry]:
    """The entries of a directory, file name -> text. firmware: as in `parse_entry`."""
    found = (parse_entry(name, text, top, firmware) for name, text in texts.items())
    return [entry for entry in found if entry is not None]
