"""What a guest's boot loader would boot: GRUB 2, boot loader entries, GRUB legacy, extlinux.

Pure functions over the configuration files' text. They understand what grub-mkconfig, grubby,
kernel-install, anaconda and debian-installer write; a file that does more than that leads to no
answer, never to a wrong one that cannot be seen (the result is shown to the user).
Sources: GNU GRUB manual 2.06; Boot Loader Specification (UAPI.1); GNU GRUB manual 0.97;
syslinux.txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.core.versions import version_key

_SET_DEFAULT = re.compile(r"^\s*set\s+default=(?:\"([^\"]*)\"|'([^']*)'|(\S+))", re.MULTILINE)
_BLOCK = re.compile(r"^\s*(menuentry|submenu)\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))(.*)$")
_ID = re.compile(r"(?:--id|\$\{?menuentry_id_option\}?)[\s=]+(?:'([^']*)'|\"([^\"]*)\"|(\S+))")
_LINUX = re.compile(r"^\s*linux(?:16|efi)?\s+(\S+)")
_INITRD = re.compile(r"^\s*initrd(?:16|efi)?\s+(.+)$")
_DEVICE = re.compile(r"^\([^)]*\)")
_BLSCFG = re.compile(r"^\s*blscfg\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One bootable entry. kernel, ramdisks: paths as written, without a device."""

    kernel: str
    ramdisks: tuple[str, ...] = ()
    title: str = ""
    id: str = ""
    version: str = ""


@dataclass
class _Menu:
    """A GRUB 2 menu: entries and submenus in order."""

    title: str = ""
    id: str = ""
    entry: Entry | None = None
    children: list[_Menu] = field(default_factory=list)


def grub2_default(
    config: str, environment: str = "", entries: Mapping[str, str] | None = None
) -> Entry | None:
    """The default of a grub.cfg with its grubenv and, where it says blscfg, loader entries."""
    menu = _menu(config)
    if _BLSCFG.search(config):
        menu.children += [_Menu(e.title, e.id, e) for e in loader_entries(entries or {})]
    saved = grub_environment(environment).get("saved_entry", "")
    wanted = ""
    for match in _SET_DEFAULT.finditer(config):
        value = next((group for group in match.groups() if group is not None), "")
        if "next_entry" not in value:  # for one boot only
            wanted = value
    if "$" in wanted:
        wanted = saved
    return _chosen(menu, wanted or "0")


def loader_default(entries: Mapping[str, str], environment: str = "") -> Entry | None:
    """The default among loader entries (name -> text) without a grub.cfg."""
    menu = _Menu(children=[_Menu(e.title, e.id, e) for e in loader_entries(entries)])
    return _chosen(menu, grub_environment(environment).get("saved_entry", "") or "0")


def legacy_default(config: str) -> Entry | None:
    """The default of a GRUB legacy menu.lst or grub.conf."""
    number, found = 0, list[Entry]()
    title, kernel, ramdisks = "", "", list[str]()
    for line in [*config.splitlines(), "title end"]:
        word, _, rest = re.sub(r"[\s=]+", " ", line.strip(), count=1).partition(" ")
        rest = rest.strip()
        if word == "default" and rest.isdecimal():
            number = int(rest)
        elif word == "title":
            if title:
                found.append(Entry(kernel, tuple(ramdisks), title))
            title, kernel, ramdisks = rest or "untitled", "", []
        elif word == "kernel" and rest:
            words = [w for w in rest.split() if not w.startswith("--")]
            kernel = _path(words[0]) if words else ""
        elif word == "initrd" and rest:
            ramdisks = [_path(rest.split()[0])]
    entry = found[number] if number < len(found) else None
    return entry if entry and entry.kernel else None


def extlinux_default(config: str, directory: str) -> Entry | None:
    """The default of an extlinux.conf or syslinux.cfg; relative paths are below `directory`."""
    wanted, found, label = "", dict[str, dict[str, str]](), ""
    for line in config.splitlines():
        word, _, rest = line.strip().partition(" ")
        word, rest = word.lower(), rest.strip()
        if word in ("default", "ontimeout") and not label:
            wanted = rest
        elif word == "label":
            label = rest
            found[label] = {}
        elif label and word in ("kernel", "linux", "initrd"):
            found[label]["kernel" if word == "linux" else word] = rest
        elif label and word == "append" and (match := re.search(r"\binitrd=(\S+)", rest)):
            found[label].setdefault("initrd", match[1])
        elif label and word == "menu" and rest.lower() == "default":
            wanted = label
    entry = found.get(wanted) or next(iter(found.values()), {})
    if not entry.get("kernel"):
        return None
    ramdisks = [path for path in entry.get("initrd", "").split(",") if path]
    kernel, *others = (
        path if path.startswith("/") else f"{directory}/{path}"
        for path in (entry["kernel"], *ramdisks)
    )
    return Entry(kernel, tuple(others), wanted)


def grub_environment(text: str) -> dict[str, str]:
    """The variables of a grubenv block."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in pairs if equals}


def loader_entries(entries: Mapping[str, str]) -> list[Entry]:
    """Loader entries (file name -> text) in the order of the menu: newest version first."""
    found = []
    for name, text in entries.items():
        fields: dict[str, list[str]] = {}
        for line in text.splitlines():
            key, _, value = line.strip().replace("\t", " ").partition(" ")
            if key and not key.startswith("#"):
                fields.setdefault(key, []).append(value.strip())
        kernel = fields.get("linux", [""])[0]
        if not kernel:
            continue
        ramdisks = tuple(path for value in fields.get("initrd", []) for path in value.split())
        found.append(
            Entry(
                _path(kernel),
                # "$tuned_initrd" and the like are variables that are empty by default.
                tuple(_path(path) for path in ramdisks if "$" not in path),
                fields.get("title", [""])[0],
                name.removesuffix(".conf"),
                fields.get("version", [""])[0],
            )
        )
    # A rescue entry's version begins with "0-rescue", so it sorts last, as in GRUB's own menu.
    found.sort(key=lambda e: (version_key(e.version or e.id), e.id), reverse=True)
    return found


def _menu(config: str) -> _Menu:
    top = _Menu()
    open_blocks: list[_Menu | None] = []
    for line in config.splitlines():
        if match := _BLOCK.match(line):
            title = next((g for g in match.group(2, 3, 4) if g is not None), "")
            rest = match[5]
            found = _ID.search(rest)
            name = next((g for g in found.groups() if g is not None), "") if found else ""
            block = _Menu(title, name)
            above = next((b for b in reversed(open_blocks) if b is not None), top)
            above.children.append(block)
            open_blocks.append(block)
        elif line.rstrip().endswith("{"):
            open_blocks.append(None)
        elif line.strip() == "}":
            del open_blocks[-1:]
        elif open_blocks and (block_or_none := open_blocks[-1]) is not None:
            _read_entry_line(block_or_none, line)
    return top


def _read_entry_line(block: _Menu, line: str) -> None:
    if (match := _LINUX.match(line)) and block.entry is None:
        block.entry = Entry(_path(match[1]), (), block.title, block.id)
    elif (match := _INITRD.match(line)) and block.entry is not None:
        ramdisks = tuple(_path(path) for path in match[1].split())
        block.entry = Entry(block.entry.kernel, ramdisks, block.title, block.id)


def _chosen(menu: _Menu, wanted: str) -> Entry | None:
    """`wanted` as GRUB reads it: index, title or id, with ">" between menu levels."""
    steps = wanted.split(">")
    for at, step in enumerate(steps):
        # A title may itself hold ">": then the rest as a whole is the name.
        whole = ">".join(steps[at:])
        named = next((c for c in menu.children if whole in (c.title, c.id)), None)
        if named is not None:
            menu = named
            break
        child = _child(menu.children, step)
        if child is None:
            # GRUB boots the first entry when the default names none.
            child = _child(menu.children, "0")
            if child is None:
                return None
        menu = child
    while menu.entry is None and menu.children:
        menu = menu.children[0]
    return menu.entry


def _child(children: Sequence[_Menu], step: str) -> _Menu | None:
    if step.isdecimal():
        return children[int(step)] if int(step) < len(children) else None
    return next((child for child in children if step in (child.title, child.id)), None)


def _path(word: str) -> str:
    """A path as GRUB writes it, without its device."""
    return _DEVICE.sub("", word.strip("\"'").replace("($root)", "").replace("$root", ""))


def candidates(path: str) -> Iterator[str]:
    """Guest paths a boot loader's path may mean: on the boot partition, else on the root."""
    path = "/" + path.lstrip("/")
    if not path.startswith("/boot/"):
        yield "/boot" + path
    yield path
