"""Edit a guest's files and keep the account: a diff for every text, a name for every removal."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.core.errors import GuestError
from pipeline.disk.filesystems.status import Kind
from pipeline.guest.access.paths import MissingError, base, below, join, parent, shown
from pipeline.guest.access.protocol import Guest

ATTRIBUTE = "security.selinux"
"""The extended attribute that SELinux keeps a label in."""
_MAX_TEXT = 1 << 20  # bytes of a configuration file
_URL_PASSWORD = re.compile(r"(://[^\s/:@]*):[^\s/]*@")
_SECRET = re.compile(
    r"(?i)((?:pass(?:word|phrase|wd|wort)?|psk|wpa[-_]\w*key\d*|secret|private-?key|token)"
    r"[\w-]*[\"']?\s*[=:\s]\s*)[^\s=:].*"
)


@dataclass(frozen=True)
class Edit:
    """One changed guest path: `change` is a unified diff, or a phrase for what is not text."""

    path: str
    change: str


class Labeller(Protocol):
    """Who knows the labels of a guest."""

    def labels(self, paths: Mapping[str, Kind]) -> Mapping[str, bytes | None]:
        """The labels of real paths, as the kernel keeps them; None for one without."""


@dataclass
class Editor:
    """Everything customising does to a guest goes through here."""

    guest: Guest
    edits: list[Edit] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _unlabelled: dict[str, tuple[Kind, bytes | None]] = field(default_factory=dict)
    # Once a directory or file: a backend may have to make collected edits before it can look.
    _listings: dict[str, set[str]] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)

    def is_file(self, path: str) -> bool:
        """Whether `path` leads, through links, to a regular file."""
        return self._is(path, "file")

    def is_directory(self, path: str) -> bool:
        """Whether `path` leads, through links, to a directory."""
        return self._is(path, "directory")

    def names(self, path: str) -> list[str]:
        """Names in a directory; none if there is no such directory."""
        if not self.is_directory(path):
            return []
        real = self.guest.resolve(path)
        if real not in self._listings:
            self._listings[real] = set(self.guest.names(real))
        return sorted(self._listings[real])

    def text(self, path: str, limit: int = _MAX_TEXT) -> str:
        """A file's text, undecodable bytes kept as lone surrogates; "" if it is not there."""
        if not self.is_file(path):
            return ""
        written = self._texts.get(self.guest.resolve(path))
        if written is not None:
            return written
        return self.guest.read(path, limit).decode("utf-8", "surrogateescape")

    def small_text(self, path: str) -> str:
        """A file's text for a look at it; "" for one too large to be a configuration file."""
        if not self.is_file(path):
            return ""
        status = self.guest.stat(self.guest.resolve(path))
        return self.text(path) if status is not None and status.size <= _MAX_TEXT else ""

    def write(
        self,
        path: str,
        text: str,
        mode: int | None = None,
        *,
        follow: bool = True,
        secret: bool = False,
    ) -> None:
        """Make a file's text this, links followed; nothing to do if it already is.

        mode: of a new file, 0644 by default; None keeps that of a file that is there. follow: a
        link of that very name; False puts a file in its place, and what it led to stays. secret:
        the account says that it was changed, not what.
        """
        guest = self.guest
        self.make_directories(parent(path))
        real = self.place(path)
        if not follow:
            real = join(guest.resolve(parent(path)), base(path))
        before = guest.stat(real)
        old = self.text(real) if before is not None and before.kind == "file" else ""
        if before is not None and before.kind not in ("file", "symlink"):
            raise GuestError("edit the guest's", shown(path), why=f"it is a {before.kind}")
        if before is not None and before.kind == "symlink":
            before = None
        if before is not None and text == old and mode in (None, before.mode):
            return
        label = guest.get_xattr(real, ATTRIBUTE) if before is not None else None
        uid, gid = (before.uid, before.gid) if before is not None else (0, 0)
        if mode is None:
            mode = before.mode if before is not None else 0o644
        guest.write(real, text.encode("utf-8", "surrogateescape"), mode, uid, gid)
        self._texts[real] = text
        self._listed(real)
        self._label(real, "file", label)
        told = not secret or before is None
        change = _diff(real, old, text, new=before is None) if told else "rewritten, untold"
        if before is None or before.mode != mode:
            change = f"{'new file, ' if before is None else ''}mode {mode:04o}\n{change}".rstrip()
        self.edits.append(Edit(real, change))

    def empty(self, path: str) -> None:
        """Take a file's content away, unread and untold; owner, mode and label stay."""
        if not self.is_file(path):
            return
        real = self.guest.resolve(path)
        before = self.guest.stat(real)
        if before is None or before.size == 0:
            return
        label = self.guest.get_xattr(real, ATTRIBUTE)
        self.guest.write(real, b"", before.mode, before.uid, before.gid)
        self._texts[real] = ""
        self._label(real, "file", label)
        self.edits.append(Edit(real, "emptied"))

    def place(self, path: str) -> str:
        """The real path a write goes to: through links, or in place of one that leads nowhere.

        `path` itself where even its directory is not there.
        """
        try:
            return self.guest.resolve(path)
        except MissingError:
            if not self.guest.exists(parent(path)):
                return path
            return join(self.guest.resolve(parent(path)), base(path))

    def update(self, path: str, change: Callable[[str], str], *, secret: bool = False) -> None:
        """Rewrite the file if it is there; secret as for `write`."""
        if self.is_file(path):
            self.write(path, change(self.text(path)), secret=secret)

    def link(self, target: str, path: str) -> None:
        """Make a symbolic link, unless it is there and the same."""
        status = self.guest.stat(path)
        if status is not None and status.kind == "symlink":
            if self.guest.read_link(path) == target:
                return
        elif status is not None and status.kind != "file":
            raise GuestError("link the guest's", shown(path), why=f"it is a {status.kind}")
        self.make_directories(parent(path))
        self.guest.symlink(target, path)
        real = join(self.guest.resolve(parent(path)), base(path))
        self._texts.pop(real, None)
        self._listed(real)
        self._label(real, "symlink", None)
        self.edits.append(Edit(real, f"made a link to {shown(target)}"))

    def make_directories(self, path: str) -> None:
        """Make a directory and those above it, 0755, where they are not."""
        if self.guest.exists(path):
            return
        self.make_directories(parent(path))
        real = self.guest.resolve(path)
        self.guest.make_directory(real, 0o755)
        self._listed(real)
        self._label(real, "directory", None)
        self.edits.append(Edit(real, "made the directory"))

    def remove(self, path: str) -> None:
        """Remove whatever is there; a link, not what it leads to."""
        if self.guest.stat(path) is not None:
            real = join(self.guest.resolve(parent(path)), base(path))
            self.guest.remove(path)
            self.removed.append(path)
            self._texts = {path: t for path, t in self._texts.items() if not below(path, real)}
            self._listings = {d: n for d, n in self._listings.items() if not below(d, real)}
            self._listings.get(parent(real), set()).discard(base(real))

    def remove_matching(self, directory: str, pattern: str) -> None:
        """Remove the entries of a directory whose whole name matches a regular expression."""
        for name in self.names(directory):
            if re.fullmatch(pattern, name):
                self.remove(join(directory, name))

    def own(self, path: str, mode: int, uid: int, gid: int) -> None:
        """Give the entry, not what a link leads to, this mode and owner."""
        status = self.guest.stat(path)
        if status is None or (status.mode, status.uid, status.gid) == (mode, uid, gid):
            return
        self.guest.chown(path, uid, gid)
        self.guest.chmod(path, mode)
        self.edits.append(Edit(path, f"mode {mode:04o}, owner {uid}:{gid}"))

    def _listed(self, real: str) -> None:
        """Keep the listing of the directory true, if there is one, to an entry that was made."""
        if parent(real) in self._listings:
            self._listings[parent(real)].add(base(real))

    def _is(self, path: str, kind: Kind) -> bool:
        if not self.guest.exists(path):
            return False
        status = self.guest.stat(self.guest.resolve(path))
        return status is not None and status.kind == kind

    def label(self, labeller: Labeller | None) -> None:
        """Label what was made since the last call: as `labeller` says, else as it was before."""
        there: dict[str, Kind] = {}
        for real, (kind, _) in self._unlabelled.items():
            status = self.guest.stat(real)
            if status is not None and status.kind == kind:
                there[real] = kind
        told = labeller.labels(there) if labeller is not None and there else {}
        for real in there:
            label = told.get(real) or self._unlabelled[real][1]
            if label is not None:
                self.guest.set_xattr(real, ATTRIBUTE, label)
        self._unlabelled.clear()

    def _label(self, real: str, kind: Kind, old: bytes | None) -> None:
        """Have the path labelled later. old: the label it had before it was replaced."""
        before = self._unlabelled.get(real, (kind, None))[1]
        self._unlabelled[real] = kind, old or before


def _diff(path: str, old: str, text: str, *, new: bool) -> str:
    before, after = "/dev/null" if new else f"a{path}", f"b{path}"
    lines = difflib.unified_diff(
        old.splitlines(), text.splitlines(), before, after, lineterm="", n=1
    )
    return "\n".join(map(_without_secrets, lines))


def _without_secrets(line: str) -> str:
    """A line of a diff fit for the manifest: what the guest had may hold passwords."""
    line = _URL_PASSWORD.sub(r"\1:****@", line)
    return line if line.startswith("+") else _SECRET.sub(r"\1****", line)
