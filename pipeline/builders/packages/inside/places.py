"""Files of the guest, read and written with "/" being the guest's root."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

_PASSING = ("/run/", "/var/run/", "/tmp/", "/dev/", "/proc/", "/sys/")  # noqa: S108 # the guest's
Fill = Callable[[int], None]
"""Writes a file's content to an open file descriptor."""


class Fault(Exception):
    """What the guest has or lacks so that a setting cannot be made; a clause, with its remedy."""


@dataclass(frozen=True)
class Guest:
    """The guest's root. epoch: seconds, the time of all that is written. top: "/" but in tests.

    notes: what was left out, a sentence each, in order.
    """

    epoch: int
    top: str = "/"
    notes: list[str] = field(default_factory=list)

    def at(self, path: str) -> Path:
        """The place of the guest's absolute path."""
        return Path(self.top) / path.lstrip("/")

    def real(self, path: str) -> str:
        """The path that a chain of links ends at, whether something is there or not."""
        return os.path.realpath(self.at(path))

    def text(self, path: str) -> str:
        """A file's text; "" where there is none. Bytes that are no UTF-8 survive a round trip."""
        try:
            return self.at(path).read_bytes().decode("utf-8", "surrogateescape")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return ""

    def is_file(self, path: str) -> bool:
        """Whether there is a regular file, by a link or not."""
        return self.at(path).is_file()

    def find(self, program: str) -> str:
        """The path of a program; "" without it."""
        for directory in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
            if os.access(self.at(f"{directory}/{program}"), os.X_OK):
                return f"{directory}/{program}"
        return ""

    def set_text(self, path: str, text: str, mode: int = 0o644) -> None:
        """Make a settings file have this text; its mode and owner are kept.

        A link is followed, and replaced where it leads to nothing or to what is made at boot. mode:
        of a new file. What has the text already is not touched.
        """
        place, target = self.at(path), Path(self.real(path))
        inner = f"/{os.path.relpath(target, self.top)}"
        if place.is_symlink() and (inner.startswith(_PASSING) or not target.parent.is_dir()):
            place.unlink()
            target = place
        data = text.encode("utf-8", "surrogateescape")
        uid = gid = 0
        with contextlib.suppress(FileNotFoundError):
            found = target.stat()
            if not stat.S_ISREG(found.st_mode):
                raise Fault(f"{path} is no file")
            if target.read_bytes() == data:
                return
            uid, gid, mode = found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)
        self.make_parents(path, target.parent)
        self.put(target, lambda fd: write_all(fd, data), uid, gid, mode)

    def put(self, target: Path, fill: Fill, uid: int, gid: int, mode: int) -> None:
        """Put a whole file at `target` in place of a file or link there."""
        if target.is_dir() and not target.is_symlink():
            raise Fault(f"{target} is a directory")
        new = target.with_name(f".{target.name[:200]}.new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            fill(fd)
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)  # after the owner, whose change takes setuid away
            os.utime(fd, (self.epoch, self.epoch))
        finally:
            os.close(fd)
        new.replace(target)

    def link(self, path: str, content: str) -> None:
        """Make a symbolic link in place of a file or link."""
        place = self.at(path)
        if place.is_symlink() and str(place.readlink()) == content:
            return
        self.make_parents(path, place.parent)
        self.remove(path)
        place.symlink_to(content)
        os.utime(place, (self.epoch, self.epoch), follow_symlinks=False)

    def make_parents(self, path: str, parent: Path) -> None:
        """Make the directories above `path`, root's and 0755, where they are missing."""
        missing = []
        while not parent.is_dir():
            if parent.is_symlink() or parent.exists():
                raise Fault(f"{path}: above it {parent} is no directory")
            missing.append(parent)
            parent = parent.parent
        for directory in reversed(missing):
            directory.mkdir(0o755)
            directory.chmod(0o755)
            os.utime(directory, (self.epoch, self.epoch))

    def remove(self, path: str) -> None:
        """Remove a file, link or tree, if it is there."""
        place = self.at(path)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def copy_home(self, skeleton: str, home: str, uid: int, gid: int, mode: int) -> None:
        """Make a home directory from the skeleton; one that is there is left."""
        place = self.at(home)
        if place.is_symlink():
            raise Fault(f"{home} is a link, and no home directory is made where it leads")
        if place.exists():
            if not place.is_dir():
                raise Fault(f"{home} is no directory")
            return
        self.make_parents(home, place.parent)
        source = self.at(skeleton)
        if source.is_dir():
            shutil.copytree(source, place, symlinks=True, copy_function=_copy)
        else:
            place.mkdir()
        entries: Iterable[Path] = sorted(place.rglob("*"), reverse=True)
        for entry in (*entries, place):
            os.chown(entry, uid, gid, follow_symlinks=False)
            os.utime(entry, (self.epoch, self.epoch), follow_symlinks=False)
        place.chmod(mode)

    def set_keys(self, home: str, keys: list[str], uid: int, gid: int) -> None:
        """Have these lines in a home's authorized_keys, after what is there."""
        directory = self.at(f"{home}/.ssh")
        path = directory / "authorized_keys"
        if directory.is_symlink() or path.is_symlink():
            raise Fault(
                f"{home}/.ssh/authorized_keys is a link, and no keys are put where it leads"
            )
        if not directory.is_dir():
            directory.mkdir()
            os.chown(directory, uid, gid)
            directory.chmod(0o700)
        lines = self.text(f"{home}/.ssh/authorized_keys").splitlines()
        wanted = [*lines, *(key for key in dict.fromkeys(keys) if key not in lines)]
        if wanted != lines:
            data = "".join(f"{line}\n" for line in wanted).encode("utf-8", "surrogateescape")
            self.put(path, lambda fd: write_all(fd, data), uid, gid, 0o600)
            os.utime(directory, (self.epoch, self.epoch))


def write_all(fd: int, data: bytes) -> None:
    """Write all of it; write(2) may take less."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def copy_all(source: int, fd: int) -> None:
    """Copy an open file of the host, from its beginning."""
    offset = 0
    while count := os.sendfile(fd, source, offset, 1 << 20):
        offset += count


def _copy(source: str, target: str) -> str:
    shutil.copyfile(source, target, follow_symlinks=False)
    if not Path(target).is_symlink():
        shutil.copymode(source, target)
    return target
