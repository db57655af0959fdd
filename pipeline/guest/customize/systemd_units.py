"""A guest's systemd units as its systemd sees them: which file counts, what it says, its links.

Sources: systemd.unit(5) (load path, drop-ins, masks, conditions), machine-id(5).
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cached_property

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import base, parent

UNIT_DIRECTORIES = (
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_LINKED = (".wants", ".requires", ".upholds")
_BOOT_TARGETS = (
    *("default", "graphical", "multi-user", "basic", "sysinit", "sockets", "timers", "paths"),
    *("local-fs", "remote-fs", "network", "network-online", "getty", "cloud-init", "cloud-config"),
)
_PULLS = ("Wants", "Requires", "Requisite", "BindsTo", "Upholds")
_VOLATILE = ("/run/", "/var/run/", "/proc/", "/sys/", "/dev/", "/tmp/")  # noqa: S108 # the guest's
_WRITABLE = ("/", "/etc", "/etc/ssh", "/var", "/usr")


class Units:
    """The units of one guest, read when asked for. A unit is named as systemd names it."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        return {directory: self._editor.names(directory) for directory in UNIT_DIRECTORIES}

    def path(self, name: str) -> str:
        """The file that counts for a unit, a template's for an instance; "" if there is none.

        For a unit that is masked this is the mask.
        """
        template = re.sub(r"@[^.]*\.", "@.", name)
        for wanted in dict.fromkeys((name, template)):
            for directory, names in self._names.items():
                if wanted in names:
                    return f"{directory}/{wanted}"
        return ""

    def masked(self, name: str) -> bool:
        """Whether the unit's file is a link to /dev/null, or empty."""
        path = self.path(name)
        if not path:
            return False
        status = self._editor.guest.stat(path)
        if status is not None and status.kind == "symlink":
            target = self._editor.guest.read_link(path)
            return target == "/dev/null" or target.endswith("/../dev/null")
        return status is not None and status.size == 0

    def names(self, pattern: str) -> list[str]:
        """The units whose names match a regular expression as a whole, sorted."""
        found = {name for names in self._names.values() for name in names}
        return sorted(name for name in found if re.fullmatch(pattern, name))

    def settings(self, name: str, key: str) -> list[str]:
        """A setting's values in order, drop-ins included; an empty value takes back those before.

        Conditions are reset by an empty one of any kind, as systemd has it: `conditions`.
        """
        values: list[str] = []
        for found, value in self._lines(name):
            if found == key:
                values = [*values, value] if value else []
        return values

    def conditions(self, name: str) -> list[tuple[str, str]]:
        """Condition*= and Assert*= settings: (kind, value)."""
        found: list[tuple[str, str]] = []
        for key, value in self._lines(name):
            if key.startswith(("Condition", "Assert")):
                family = "Condition" if key.startswith("Condition") else "Assert"
                if value:
                    found.append((key, value))
                else:
                    found = [pair for pair in found if not pair[0].startswith(family)]
        return found

    def pulled_in(self, name: str) -> list[str]:
        """The units that starting this one starts too, by settings and by links."""
        pulled = [word for key in _PULLS for value in self.settings(name, key)
                  for word in value.split()]  # fmt: skip
        for directory, names in self._names.items():
            for suffix in _LINKED:
                if name + suffix in names:
                    pulled += self._editor.names(f"{directory}/{name}{suffix}")
        return list(dict.fromkeys(pulled))

    def enabled(self, name: str) -> bool:
        """Whether a target of the boot pulls the unit in by a link."""
        return any(name in names for names in self._wanted.values())

    def ordered(self, first: str, second: str) -> bool:
        """Whether the first is started before the second, by them or by one unit in between.

        A target is after whatever it pulls in, unless that says otherwise.
        """
        after = self._words(second, "After")
        steps = self._words(first, "Before")
        steps |= {n for n in after if n.endswith(".target") and first in self.pulled_in(n)}
        return second in steps or first in after or bool(steps & after)

    @cached_property
    def _wanted(self) -> dict[str, set[str]]:
        return {
            f"{directory}/{name}": set(self._editor.names(f"{directory}/{name}"))
            for directory, names in self._names.items()
            for name in names
            if name.endswith(_LINKED) and name.partition(".target.")[0] in _BOOT_TARGETS
        }

    def _words(self, name: str, key: str) -> set[str]:
        return {word for value in self.settings(name, key) for word in value.split()}

    def _lines(self, name: str) -> list[tuple[str, str]]:
        path = self.path(name)
        if not path or self.masked(name):
            return []
        texts = [self._editor.text(path), *map(self._editor.text, self._drop_ins(name))]
        return [pair for text in texts for pair in _assignments(text)]

    def _drop_ins(self, name: str) -> list[str]:
        """Paths of NAME.d/*.conf in their order; one of /etc hides those of its name elsewhere."""
        suffix = name.rpartition(".")[2]
        places = dict.fromkeys((f"{suffix}.d", re.sub(r"@[^.]*\.", "@.", name) + ".d", f"{name}.d"))
        found: dict[str, str] = {}
        for directory, names in reversed(self._names.items()):
            for place in places:
                if place in names:
                    for entry in self._editor.names(f"{directory}/{place}"):
                        if entry.endswith(".conf"):
                            found[entry] = f"{directory}/{place}/{entry}"
        return [found[entry] for entry in sorted(found)]

    def holds_at_first_boot(self, name: str) -> bool:
        """Whether all conditions of a unit are known to hold at the first boot of an instance.

        That boot has an empty /etc/machine-id, which is no first boot to systemd. What cannot be
        told from the file system does not count as holding.
        """
        plain: list[bool] = []
        triggers: list[bool] = []
        instance = re.search(r"@([^.]*)\.", name)
        for kind, value in self.conditions(name):
            if instance:
                value = re.sub("%[iI]", instance[1].replace("\\", r"\\"), value)  # noqa: PLW2901
            trigger, value = value.startswith("|"), value.lstrip("|").strip()  # noqa: PLW2901
            negated, value = value.startswith("!"), value.lstrip("!").strip()  # noqa: PLW2901
            known = self._condition(re.sub(r"^(?:Condition|Assert)", "", kind), value)
            holds = known is not None and known != negated
            (triggers if trigger else plain).append(holds)
        return all(plain) and (not triggers or any(triggers))

    def _condition(self, kind: str, value: str) -> bool | None:
        """Whether a condition holds, its "!" left out; None where it cannot be told."""
        if kind == "FirstBoot":
            return value.lower() in ("no", "false", "off", "0")
        if kind == "Virtualization":
            return {"yes": True, "vm": True, "no": False, "container": False}.get(value)
        if kind == "PathIsReadWrite":
            return value in _WRITABLE or None
        if not value.startswith("/") or value.startswith(_VOLATILE) or value == "/etc/machine-id":
            return None
        return self._file_condition(kind, value)

    def _file_condition(self, kind: str, path: str) -> bool | None:
        editor, guest = self._editor, self._editor.guest
        if kind == "PathExists":
            return guest.exists(path)
        if kind == "PathExistsGlob":
            if re.search(r"[*?[]", parent(path)):
                return None
            return any(fnmatchcase(name, base(path)) for name in editor.names(parent(path)))
        if kind == "PathIsDirectory":
            return editor.is_directory(path)
        if kind == "PathIsSymbolicLink":
            status = guest.stat(path)
            return status is not None and status.kind == "symlink"
        if kind == "DirectoryNotEmpty":
            return bool(editor.names(path))
        if kind in ("FileNotEmpty", "FileIsExecutable"):
            if not editor.is_file(path):
                return False
            status = guest.stat(guest.resolve(path))
            if status is None:
                return False
            return status.size > 0 if kind == "FileNotEmpty" else bool(status.mode & 0o111)
        return None


def _assignments(text: str) -> list[tuple[str, str]]:
    """The settings of a unit file: (key, value), continued lines joined, comments left out."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith(("#", ";")):
            continue
        if lines and lines[-1].endswith("\\"):
            lines[-1] = f"{lines[-1][:-1]} {line.strip()}"
        else:
            lines.append(line.strip())
    pairs = (line.partition("=") for line in lines)
    return [(key.strip(), value.strip()) for key, equals, value in pairs if equals]
