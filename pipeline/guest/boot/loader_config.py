"""What a guest's boot loader would boot: GRUB 2, GRUB legacy, the syslinux family, U-Boot.

Pure functions over the configuration files' text. They understand what grub-mkconfig, grubby,
kernel-install, anaconda and debian-installer write; a file that does more than that leads to no
answer, never to a wrong one that cannot be seen (the result is shown to the user). Boot loader
entries are `loaderspec`'s. Sources: GNU GRUB manual 2.06; GNU GRUB manual 0.97; syslinux.txt;
U-Boot, doc/usage/distro ("extlinux.conf").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

_SET_DEFAULT = re.compile(r"^\s*set\s+default=(?:\"([^\"]*)\"|'([^']*)'|(\S+))", re.MULTILINE)
_BLOCK = re.compile(r"^\s*(menuentry|submenu)\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))(.*)$")
_ID = re.compile(r"(?:--id|\$\{?menuentry_id_option\}?)[\s=]+(?:'([^']*)'|\"([^\"]*)\"|(\S+))")
_LINUX = re.compile(r"^\s*linux(?:16|efi)?\s+(\S+)")
_INITRD = re.compile(r"^\s*initrd(?:16|efi)?\s+(.+)$")
# Behind `multiboot /xen.gz`: the Linux that Xen starts, then its ramdisk.
_MODULE = re.compile(r"^\s*module2?\s+(?:--\S+\s+)*(\S+)")
_CHAIN = re.compile(r"^\s*chainloader\s+(?:--?\w+\s+)*(\S+\.efi)", re.IGNORECASE)
_DEVICE = re.compile(r"^\([^)]*\)")
_BLSCFG = re.compile(r"^\s*blscfg(?:\s|$)")
_UKICFG = re.compile(r"^\s*uki(?:\s|$)")
_MAX_INCLUDES = 16


@dataclass(frozen=True)
class Entry:
    """One bootable entry. kernel, ramdisks: paths as written, without a device.

    uki: `kernel` is a unified kernel image, or another program of the firmware's. top: where the
    volume that the paths start from is mounted; "" when nobody knows. The rest as in the Boot
    Loader Specification; tries_left and tries_done are -1 without boot counting.
    """

    kernel: str
    ramdisks: tuple[str, ...] = ()
    title: str = ""
    id: str = ""
    version: str = ""
    sort_key: str = ""
    machine_id: str = ""
    tries_left: int = -1
    tries_done: int = -1
    uki: bool = False
    top: str = ""


@dataclass
class _Menu:
    """A GRUB 2 menu: entries and submenus in order."""

    title: str = ""
    id: str = ""
    entry: Entry | None = None
    children: list[_Menu] = field(default_factory=list)


def grub2_default(
    config: str, environment: str = "", entries: Sequence[Entry] = (), images: Sequence[Entry] = ()
) -> Entry | None:
    """The default of a grub.cfg with its grubenv.

    entries, images: what the commands `blscfg` and `uki` would add to the menu, in GRUB's order.
    """
    menu = _menu(config, entries, images)
    saved = grub_environment(environment).get("saved_entry", "")
    wanted = ""
    for match in _SET_DEFAULT.finditer(config):
        value = next((group for group in match.groups() if group is not None), "")
        if "next_entry" not in value:  # for one boot only
            wanted = value
    if "$" in wanted:
        wanted = saved
    return _chosen(menu, wanted or "0")


def entries_default(entries: Sequence[Entry], environment: str = "") -> Entry | None:
    """The default among loader entries in GRUB's order, with its grubenv but no grub.cfg."""
    menu = _Menu(children=[_Menu(e.title, e.id, e) for e in entries])
    return _chosen(menu, grub_environment(environment).get("saved_entry", "") or "0")


def legacy_default(config: str, saved: str = "") -> Entry | None:
    """The default of a GRUB legacy menu.lst or grub.conf.

    saved: the content of GRUB's file `default`, whose first line is the number that
    `default saved` means.
    """
    number, found = 0, list[Entry]()
    title, kernel, ramdisks, modules = "", "", list[str](), False
    for line in [*config.splitlines(), "title end"]:
        word, _, rest = re.sub(r"[\s=]+", " ", line.strip(), count=1).partition(" ")
        rest = rest.strip()
        if word == "default" and rest == "saved":
            rest = (saved.split() or ["0"])[0]
        if word == "default" and rest.isdecimal():
            number = int(rest)
        elif word == "title":
            if title:
                found.append(Entry(kernel, tuple(ramdisks), title))
            title, kernel, ramdisks, modules = rest or "untitled", "", [], False
        elif word == "kernel" and rest:
            words = [w for w in rest.split() if not w.startswith("--")]
            kernel = plain_path(words[0]) if words else ""
        elif word == "initrd" and rest:
            ramdisks = [plain_path(rest.split()[0])]
        elif match := _MODULE.match(line):
            if modules:
                ramdisks = ramdisks or [plain_path(match[1])]
            else:
                kernel, modules = plain_path(match[1]), True
    entry = found[number] if number < len(found) else None
    return entry if entry and entry.kernel else None


def extlinux_default(
    config: str, directory: str, include: Callable[[str], str] | None = None
) -> Entry | None:
    """The default of an extlinux.conf, syslinux.cfg or isolinux.cfg, as U-Boot reads it too.

    Relative paths are below `directory`. include: gives the text of an included
    file, "" if there is none.
    """
    wanted, label = "", ""
    found = dict[str, dict[str, str]]()
    for line in _with_includes(config, directory, include):
        word, rest = _word(line)
        if word in ("default", "ontimeout"):  # of the whole file, wherever they stand
            wanted = rest
        elif word == "label":
            label = rest
            found.setdefault(label, {})
        elif label and word in ("kernel", "linux", "initrd"):
            found[label]["kernel" if word == "linux" else word] = rest
        elif label and word == "append" and (match := re.search(r"\binitrd=(\S+)", rest)):
            found[label].setdefault("initrd", match[1])
        elif label and word == "menu" and rest.lower() == "default":
            wanted = label
    entry = found.get(wanted) or next((e for e in found.values() if e.get("kernel")), {})
    if not entry.get("kernel"):
        return None
    ramdisks = [path for path in entry.get("initrd", "").split(",") if path]
    kernel, *others = (_below(directory, path) for path in (entry["kernel"], *ramdisks))
    return Entry(kernel, tuple(others), wanted)


def _word(line: str) -> tuple[str, str]:
    """The first word in lower case, and the rest."""
    words = line.split(None, 1)
    return (words[0].lower() if words else "", words[1].strip() if len(words) > 1 else "")


def _below(directory: str, path: str) -> str:
    return path if path.startswith("/") else f"{directory}/{path}"


def _with_includes(
    config: str, directory: str, include: Callable[[str], str] | None
) -> Iterator[str]:
    """The lines of a configuration, included files in their place."""
    waiting = [iter(config.splitlines())]
    included = 0
    while waiting:
        line = next(waiting[-1], None)
        if line is None:
            waiting.pop()
            continue
        word, rest = _word(line)
        if word == "menu" and rest.lower().startswith("include "):
            word, rest = "include", rest[8:].strip()
        if word == "include" and rest and include and included < _MAX_INCLUDES:
            included += 1
            waiting.append(iter(include(_below(directory, rest.split()[0])).splitlines()))
        else:
            yield line


def grub_environment(text: str) -> dict[str, str]:
    """The variables of a grubenv block."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in pairs if equals}


def _menu(config: str, entries: Sequence[Entry], images: Sequence[Entry]) -> _Menu:
    top = _Menu()
    open_blocks: list[_Menu | None] = []
    for line in config.splitlines():
        if (is_entries := _BLSCFG.match(line)) or _UKICFG.match(line):
            # In its place: an index counts what other commands put before and behind it.
            added = entries if is_entries else images
            above = next((b for b in reversed(open_blocks) if b is not None), top)
            above.children += [_Menu(e.title, e.id, e) for e in added]
        elif match := _BLOCK.match(line):
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
        block.entry = Entry(plain_path(match[1]), (), block.title, block.id)
    elif (match := _CHAIN.match(line)) and block.entry is None:
        block.entry = Entry(plain_path(match[1]), (), block.title, block.id, uki=True)
    elif match := _MODULE.match(line):
        if block.entry is None:
            block.entry = Entry(plain_path(match[1]), (), block.title, block.id)
        elif not block.entry.ramdisks:
            block.entry = replace(block.entry, ramdisks=(plain_path(match[1]),))
    elif (match := _INITRD.match(line)) and block.entry is not None:
        ramdisks = tuple(plain_path(path) for path in match[1].split())
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


def plain_path(word: str) -> str:
    """A path as GRUB writes it, without its device."""
    return _DEVICE.sub("", word.strip("\"'").replace("($root)", "").replace("$root", ""))


def candidates(path: str, top: str = "") -> Iterator[str]:
    """Guest paths a boot loader's path may mean: on the volume mounted at `top`, on the boot
    partition, on the root.
    """
    path = "/" + path.lstrip("/")
    if top and top != "/boot":
        yield top + path
    if not path.startswith("/boot/"):
        yield "/boot" + path
    yield path
