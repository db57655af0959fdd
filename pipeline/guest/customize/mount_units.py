"""What systemd mounts and swaps to by units of a guest: read as entries of fstab, and removed.

Sources: systemd.unit(5) for where units lie, their drop-ins and the escaping of paths in names;
systemd.mount(5), systemd.automount(5), systemd.swap(5).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pipeline.core.fstab import Entry, normal, unquoted
from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import join

DIRECTORIES = (
    "/etc/systemd/system.control",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
"""Where units lie on disk, the first of a name counts."""
_KINDS = (".mount", ".swap", ".automount")
_PULLED_IN = (".wants", ".requires", ".upholds")
_MAX_UNIT = 1 << 20  # bytes


@dataclass(frozen=True)
class MountUnit:
    """A unit that mounts or swaps. entry: the same as a line of fstab would say it."""

    name: str
    entry: Entry


def read_units(editor: Editor) -> tuple[MountUnit, ...]:
    """The mount and swap units of a guest; those that are masked mount nothing and are left out."""
    found: dict[str, MountUnit | None] = {}
    for path in _paths(editor):
        name = path.rpartition("/")[2]
        if name in found or name.endswith(".automount"):
            continue
        # A mask is a link to /dev/null, or an empty file.
        text = editor.text(path, _MAX_UNIT)
        found[name] = _unit(editor, path, text) if text.strip() else None
    return tuple(unit for unit in found.values() if unit)


def remove_units(editor: Editor, names: Collection[str], places: Collection[str]) -> list[str]:
    """Remove units, their drop-ins, and what pulls them in; the names of those removed.

    names: of mount and swap units. places: mount points whose automount goes as well.
    """
    gone = set(names)
    for path in _paths(editor):
        name = path.rpartition("/")[2]
        if name.endswith(".automount"):
            where = _settings(editor, name, editor.text(path, _MAX_UNIT)).get("Where", "")
            mount = name.removesuffix(".automount") + ".mount"
            if mount in gone or normal(where or path_of(name)) in places:
                gone.add(name)
    removed = [path for path in _paths(editor) if path.rpartition("/")[2] in gone]
    for directory in _directories(editor) if gone else ():
        for name in editor.names(directory):
            inner = join(directory, name)
            if name.endswith(".d") and name.removesuffix(".d") in gone:
                removed.append(inner)
            elif name.endswith(_PULLED_IN):
                removed += [join(inner, n) for n in editor.names(inner) if n in gone]
                if name.rpartition(".")[0] in gone:
                    removed.append(inner)
    for path in removed:
        editor.remove(path)
    return sorted(gone)


def that_require(editor: Editor, names: Collection[str]) -> list[str]:
    """Units of the machine's own, and drop-ins, that will not start without those `names`."""
    found = []
    for path in _own_settings(editor) if names else ():
        wanted = re.findall(r"^(?:Requires|Requisite|BindsTo)=(.*)$", editor.text(path), re.M)
        if set(names).intersection(" ".join(wanted).split()):
            found.append(path)
    return found


def _own_settings(editor: Editor) -> Iterator[str]:
    """Files of units and drop-ins below /etc, where links that pull units in count for none."""
    top = "/etc/systemd/system"
    for name in editor.names(top):
        path = join(top, name)
        if name.endswith(".d"):
            yield from (join(path, file) for file in editor.names(path) if file.endswith(".conf"))
        elif editor.is_file(path):
            yield path


def path_of(name: str) -> str:
    r"""The path that a unit's name stands for: "srv-my\x2ddata.mount" is /srv/my-data."""
    stem = name.rpartition(".")[0]
    if stem == "-":
        return "/"
    escaped = stem.replace("-", "/").encode("utf-8", "surrogateescape")
    plain = re.sub(rb"\\x([0-9a-fA-F]{2})", lambda m: bytes([int(m[1], 16)]), escaped)
    return "/" + plain.decode("utf-8", "surrogateescape")


def unit_of(path: str) -> str:
    """The name of the mount unit of a path (systemd-escape(1))."""
    words = path.strip("/").encode("utf-8", "surrogateescape").split(b"/")
    escaped = ["".join(map(_escaped, word)) for word in words]
    stem = "-".join(escaped) or "-"
    return (f"\\x2e{stem[1:]}" if stem.startswith(".") else stem) + ".mount"


def _escaped(byte: int) -> str:
    character = chr(byte)
    plain = character.isascii() and (character.isalnum() or character in ":_.")
    return character if plain else f"\\x{byte:02x}"


def _unit(editor: Editor, path: str, text: str) -> MountUnit | None:
    name = path.rpartition("/")[2]
    settings = _settings(editor, name, text)
    what = unquoted(settings.get("What", "").replace("%%", "%"))
    options = settings.get("Options", "").split(",")
    if "TimeoutSec" in settings:
        options.append(f"x-systemd.mount-timeout={settings['TimeoutSec']}")
    if name.endswith(".swap"):
        what = what or path_of(name)
        return MountUnit(name, Entry(path, what, "none", "swap", tuple(options)))
    where = settings.get("Where", "").strip("\"'").replace("%%", "%") or path_of(name)
    kind = settings.get("Type", "") or "auto"
    return MountUnit(name, Entry(path, what, where, kind, tuple(options))) if what else None


def _settings(editor: Editor, name: str, text: str) -> dict[str, str]:
    """The last value of each setting of the unit and its drop-ins, whatever the section."""
    found = dict(_read(text))
    for path in _drop_ins(editor, name):
        found |= dict(_read(editor.text(path, _MAX_UNIT)))
    return found


def _read(text: str) -> Iterator[tuple[str, str]]:
    section = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip()  # noqa: PLW2901
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            section = line
        elif section in ("[Mount]", "[Swap]", "[Automount]"):
            key, _, value = line.partition("=")
            yield key.strip(), value.strip()


def _drop_ins(editor: Editor, name: str) -> list[str]:
    """Drop-ins of a unit in the order in which they count: by file name, wherever they lie."""
    stem, _, kind = name.rpartition(".")
    parts = stem.split("-")
    prefixes = ["-".join(parts[:n]) + f"-.{kind}.d" for n in range(len(parts) - 1, 0, -1)]
    found: dict[str, str] = {}
    for directory in (f"{name}.d", *prefixes, f"{kind}.d"):
        for top in _directories(editor):
            inner = join(top, directory)
            for file in editor.names(inner):
                if file.endswith(".conf"):
                    found.setdefault(file, join(inner, file))
    return [found[file] for file in sorted(found)]


def _paths(editor: Editor) -> list[str]:
    """Files of mount, swap and automount units, those that count first."""
    return [
        join(directory, name)
        for directory in _directories(editor)
        for name in editor.names(directory)
        if name.endswith(_KINDS)
    ]


def _directories(editor: Editor) -> list[str]:
    """The unit directories that are there, each once whatever links lead to it."""
    real = [editor.guest.resolve(d) for d in DIRECTORIES if editor.is_directory(d)]
    return list(dict.fromkeys(real))
