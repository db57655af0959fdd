"""Edit clean ext file systems without an appliance: disk/filesystems reads, debugfs(8) writes.

debugfs exits with 0 whatever happens and writes into an unreplayed journal's file system without
a word. Therefore: only file systems in which `ext_support.unsafe_because` finds nothing; edits are
collected and given to one debugfs in one go; anything it says on standard error is a failure; then
every edited entry is read back by our own reader and compared; and e2fsck has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from pipeline.core.errors import GuestError
from pipeline.core.image import PartitionImage
from pipeline.disk.filesystems.ext_inodes import Inode, Reader
from pipeline.disk.filesystems.ext_usage import UsedRanges
from pipeline.disk.filesystems.status import Kind, Status
from pipeline.guest.access.paths import PathGuest, base, below, decoded, encoded, parent, shown
from pipeline.guest.access.protocol import Facts
from pipeline.host.context import Tools
from pipeline.host.files import naming, write_scratch
from pipeline.host.programs import refuse_full
from pipeline.host.sparse import punch

# Inode flags: Linux, Documentation/filesystems/ext4/inodes.rst.
_IMMUTABLE = 0x10
_USERS_FLAGS = 0xFF | 0x4000 | 0x8000  # what chattr(1) sets of a file: s u c S i a d A j t
_EXTENTS_FLAG = 0x80000  # what debugfs gives a new file where the file system has extents
_EXTENTS = 0x40  # INCOMPAT_EXTENTS
_EDIT_SECONDS = 300.0  # some hundred edits take well under a second; a stalled disk may not
_MAX_LABEL = 16  # bytes, s_volume_name
_TYPE_BITS: dict[Kind, int] = {"file": 0o100000, "directory": 0o040000, "symlink": 0o120000}
_MAX_COMMAND = 8000  # debugfs reads lines of BUFSIZ (8192) bytes


@contextmanager
def opened(
    root: PartitionImage, boot: PartitionImage | None, tools: Tools, epoch: int | None = None
) -> Iterator[PathGuest]:
    """Edit `root`; `boot` is read. The edits are in the file when the context ends well.

    epoch: what edits are dated by, seconds since 1970, in place of the time at which they are made.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(Reader(root.path))
        boot_reader = stack.enter_context(Reader(boot.path)) if boot else None
        guest = _ExtGuest(root, reader, boot_reader, tools, epoch)
        yield guest
        guest.flush()
        guest.free_blocks()


class _ExtGuest(PathGuest):
    backend: Literal["guestfs", "e2fsprogs"] = "e2fsprogs"

    def __init__(
        self,
        image: PartitionImage,
        root: Reader,
        boot: Reader | None,
        tools: Tools,
        epoch: int | None,
    ) -> None:
        super().__init__(separate_boot=boot is not None)
        self._image, self._root, self._boot, self._tools = image, root, boot, tools
        self._epoch = epoch
        self._commands: list[bytes] = []
        self._checks: dict[str, dict[str, Callable[[Inode | None], bool]]] = {}
        self._files: list[Path] = []
        self._leaks = False
        self._used = list(UsedRanges(root))

    @property
    def facts(self) -> Facts:
        self.flush()
        superblock = self._root.superblock
        return Facts(self._image.filesystem, superblock.uuid, superblock.label, superblock.size)

    # Reading

    def _lstat(self, real: str) -> Status | None:
        reader, path = self._route(real)
        self._settle(real)
        inode = reader.find(path)
        return inode.status() if inode else None

    def _read_link(self, real: str) -> str:
        reader, inode = self._inode(real)
        return decoded(reader.link_target(inode))

    def _read(self, real: str, size: int) -> bytes:
        reader, inode = self._inode(real)
        return reader.content(inode, size)

    def _list(self, real: str) -> list[str]:
        if any(parent(path) == real for path in self._checks):
            self.flush()
        reader, inode = self._inode(real)
        return [decoded(name) for name in reader.directory(inode)]

    def _xattrs(self, real: str) -> dict[str, bytes]:
        reader, inode = self._inode(real)
        return reader.xattrs(inode)

    def _is_immutable(self, real: str) -> bool:
        _, inode = self._inode(real)
        return bool(inode.flags & _IMMUTABLE)

    def _download(self, real: str, size: int, to: Path) -> None:
        reader, inode = self._inode(real)
        with naming(to), to.open("wb") as file:
            for offset, data in reader.chunks(inode):
                file.seek(offset)
                file.write(data)
            file.truncate(size)

    # Writing

    def _replace(self, real: str, data: bytes, status: Status, taken: bool) -> None:
        flags = 0
        if taken:
            _, old = self._inode(real)
            flags = old.flags & _USERS_FLAGS if old.status().kind == "file" else 0
            self._free(real)
        # The host file's name is ours and relative to debugfs's working directory, so the
        # scratch directory may have any name.
        source = self._tools.scratch / f"edit-{len(self._files)}"
        write_scratch(source, data)
        self._files.append(source)
        # `write` takes its second word as a name in the current directory, never as a path.
        self._do("cd", parent(real))
        self._command(f"write {source.name} {_quoted(base(real))}")
        self._checks.pop(real, None)
        self._set_status(real, status)
        if flags:
            flags |= _EXTENTS_FLAG if self._root.superblock.incompat & _EXTENTS else 0
            self._command(f"set_inode_field {_quoted(real)} flags {flags:#x}")
            self._expect(real, "flags", lambda inode: inode is not None and inode.flags == flags)
        self._expect(real, "content", lambda inode: self._content(inode) == data)
        self._expect(real, "xattrs", lambda inode: inode is None or not self._root.xattrs(inode))

    def _mkdir(self, real: str, status: Status) -> None:
        self._do("mkdir", real)
        self._checks.pop(real, None)
        self._set_status(real, status)

    def _symlink(self, target: str, real: str, taken: bool) -> None:
        if taken:
            self._free(real)
        self._enter(real)
        self._command(f"symlink {_quoted(real)} {_quoted(target)}")
        wanted = encoded(target)
        self._checks.pop(real, None)
        self._expect(
            real,
            "target",
            lambda inode: (
                inode is not None
                and inode.status().kind == "symlink"
                and self._root.link_target(inode) == wanted
            ),
        )

    def _unlink(self, real: str) -> None:
        self._free(real)
        self._gone(real)

    def _rmdir(self, real: str) -> None:
        self._note_leak(real)
        self._do("rmdir", real)
        self._gone(real)

    def _set_status(self, real: str, status: Status) -> None:
        kind = _TYPE_BITS.get(status.kind)
        if kind is None:
            raise GuestError("edit the guest's", shown(real), why="it is a device or a socket")
        for field, value in (
            ("mode", f"{kind | status.mode:#o}".replace("0o", "0")),
            ("uid", status.uid),
            ("gid", status.gid),
        ):
            self._command(f"set_inode_field {_quoted(real)} {field} {value}")
        wanted = (status.kind, status.mode, status.uid, status.gid)
        self._expect(real, "status", lambda inode: inode is not None and _owned(inode) == wanted)

    def _set_xattr(self, real: str, name: str, value: bytes) -> None:
        source = self._tools.scratch / f"edit-{len(self._files)}"
        write_scratch(source, value)
        self._files.append(source)
        self._command(f"ea_set -f {source.name} {_quoted(real)} {name}")
        self._checks.get(real, {}).pop("xattrs", None)
        self._expect(
            real,
            f"xattr {name}",
            lambda inode: inode is not None and self._root.xattrs(inode).get(name) == value,
        )

    def set_label(self, label: str) -> None:
        """Label the root file system."""
        if len(label.encode()) > _MAX_LABEL:
            raise GuestError("label the root file system", label, why="it has over 16 bytes")
        self._command(f"set_super_value volume_name {_quoted(label)}")
        self._expect("/", "label", lambda _: self._root.superblock.label == label)

    def flush(self) -> None:
        """Have the collected edits made, and read every edited entry back."""
        if not self._commands:
            return
        commands, checks, files = self._commands, self._checks, self._files
        self._commands, self._checks, self._files = [], {}, []
        if self._epoch is not None:
            commands.insert(0, f"set_current_time @{self._epoch}".encode())
        script = self._tools.scratch / "edits.debugfs"
        write_scratch(script, b"\n".join(commands) + b"\n")
        try:
            done = self._tools.run.run(
                ["debugfs", "-w", "-f", script.name, self._image.path.absolute()],
                cwd=self._tools.scratch,
                timeout=_EDIT_SECONDS,
                attempted="edit the root file system with",
            )
        finally:
            for file in (script, *files):
                file.unlink(missing_ok=True)
        # The first line of standard error is debugfs's version; there must be no other.
        complaints = done.stderr.decode(errors="replace").strip().splitlines()[1:]
        if complaints:
            refuse_full(done.argv)
            raise GuestError(
                "edit the root file system in",
                self._image.path,
                why=f"debugfs said: {shown('; '.join(complaints))[:500]}",
                next_step="Try again with the guestfs backend",
            )
        self._root.reload()
        for real, wanted in checks.items():
            inode = self._root.find(encoded(real))
            for what, holds in wanted.items():
                if not holds(inode):
                    raise GuestError(
                        "edit the guest's",
                        shown(real),
                        why=f"its {what} read back is not what was written",
                        next_step="Try again with the guestfs backend",
                    )

    def free_blocks(self) -> None:
        """Give back attribute blocks without users, and make what was freed holes of the image.

        Preening mends nothing but what is certain: a block in use by nobody, a wrong count of
        users. Anything else makes it fail. Removed keys and swapped pages would be read from free
        blocks otherwise; `e2fsck -E discard` leaves all of them where it changes anything itself.
        """
        if self._leaks:
            self._tools.run.run(
                ["e2fsck", "-fp", self._image.path.absolute()],
                timeout=_EDIT_SECONDS,
                env={} if self._epoch is None else {"E2FSCK_TIME": str(self._epoch)},
                ok=(0, 1),  # 1: mended (e2fsck(8))
                attempted="free attribute blocks with",
            )
            self._root.reload()
        with self._image.path.open("r+b") as file:
            for offset, length in _without(self._used, UsedRanges(self._root)):
                punch(file.fileno(), offset, length)

    # Helpers

    def _free(self, real: str) -> None:
        self._note_leak(real)
        self._do("rm", real)

    def _note_leak(self, real: str) -> None:
        """Remember that removing `real` leaves its attribute block behind: debugfs 1.47 does."""
        _, inode = self._inode(real)
        self._leaks = self._leaks or inode.attribute_block != 0

    def _route(self, real: str) -> tuple[Reader, bytes]:
        if self._boot is not None and below(real, "/boot"):
            return self._boot, encoded(real.removeprefix("/boot") or "/")
        return self._root, encoded(real)

    def _inode(self, real: str) -> tuple[Reader, Inode]:
        self._settle(real)
        reader, path = self._route(real)
        inode = reader.find(path)
        if inode is None:
            raise GuestError("find the guest's", shown(real), why="it is gone")
        return reader, inode

    def _settle(self, real: str) -> None:
        """Make collected edits first if `real` is among them."""
        if real in self._checks:
            self.flush()

    def _content(self, inode: Inode | None) -> bytes | None:
        return self._root.content(inode, inode.size) if inode else None

    def _enter(self, real: str) -> None:
        """Go to "/" for an entry at the top: debugfs 1.47 takes its directory for the current."""
        if parent(real) == "/":
            self._command('cd "/"')

    def _do(self, verb: str, real: str) -> None:
        self._enter(real)
        self._command(f"{verb} {_quoted(real)}")

    def _command(self, text: str) -> None:
        line = encoded(text)
        if len(line) > _MAX_COMMAND:
            raise GuestError("edit the guest's", shown(text[:100]), why="its path is too long")
        self._commands.append(line)

    def _expect(self, real: str, what: str, holds: Callable[[Inode | None], bool]) -> None:
        self._checks.setdefault(real, {})[what] = holds

    def _gone(self, real: str) -> None:
        self._checks[real] = {"absence": lambda inode: inode is None}


def _without(
    first: Iterable[tuple[int, int]], second: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """What of the first (offset, length) ranges is in none of the second; both in rising order."""
    rest = iter(second)
    taken = next(rest, None)
    for offset, length in first:
        position, end = offset, offset + length
        while position < end:
            while taken is not None and taken[0] + taken[1] <= position:
                taken = next(rest, None)
            if taken is None or taken[0] >= end:
                yield position, end - position
                break
            if taken[0] > position:
                yield position, taken[0] - position
            position = taken[0] + taken[1]


def _owned(inode: Inode) -> tuple[str, int, int, int]:
    status = inode.status()
    return status.kind, status.mode, status.uid, status.gid


def _quoted(word: str) -> str:
    """A word for debugfs's parser, which knows double quotes and, in them, doubled ones.

    It has no way to write a line break, so that such names stay with the other backend.
    """
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in word):
        raise GuestError(
            "edit the guest's",
            shown(word),
            why="its name holds control characters",
            next_step="Remove it in the installed system, or use the guestfs backend",
        )
    return '"' + word.replace('"', '""') + '"'
