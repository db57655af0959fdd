"""Mutation fuzzing of what is read in a guest: its boot configuration, fstab, links, odd entries.

    python -m tests.robustness.fuzz.fuzz_guest [--count 10000] [--seed N] [--keep DIR]

Each case takes the tree of a small Fedora or Debian, changes one to four entries (garbage and
hostile text in configuration files, links to absolute paths, to `..`, to themselves and to a bait
directory of the host, device nodes, FIFOs, sparse files of a TiB, directories in place of files,
names with line breaks), makes a real ext4 file system of it, and collects its kernel and
customises it as a build does. What may happen: an error of the pipeline, or a right image:

- e2fsck -fn finds nothing, the label and /etc/fstab are those of an image, as debugfs reads them;
- kernel and ramdisk are byte for byte files of the tree, of one version;
- whatever happens, the bait is as it was and its content is in no file that was made.

Any other exception, a case of more than a minute or memory beyond the limit is a fault. Cases
that were faults once are kept in guest-corpus/ and run by tests/integration/test_guest_fuzz.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.core.errors import DiskError, GuestError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration, PartitionImage
from pipeline.core.resources import PROJECT
from pipeline.disk.filesystems.ext_inodes import Reader
from pipeline.guest.access.open import open_guest
from pipeline.guest.boot.select import collect
from pipeline.guest.customize.apply import customize
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.boot_files import kernel, ramdisk
from tests.fixtures.disks.tools import run
from tests.robustness.fuzz.campaign import Faulty, main, time_limit
from tests.robustness.fuzz.seeds import MIB
from tests.unit.guest.customize.test_apply import DEBIAN_12, FEDORA_15

SECONDS = 60
"""A case takes a third of a second on a quiet machine, some seconds beside other guests."""
CORPUS = Path(__file__).parent / "guest-corpus"
SECRET = "the host's own secret, never to be copied"
NEW, OLD = "5.14.0", "5.9.1"
BAIT = "@BAIT@"  # stands for the bait directory in a case, whose place changes
Tree = Mapping[str, str | bytes | Mapping[str, str] | None]
_GRUB2 = f"""set default="1"
menuentry 'a' {{ linux /boot/vmlinuz-{OLD} root=x
 initrd /boot/initramfs-{OLD}.img }}
menuentry 'b' {{ linux /boot/vmlinuz-{NEW} root=x
 initrd /boot/initramfs-{NEW}.img }}
"""
_BOOT: Tree = {
    path: content
    for version in (OLD, NEW)
    for path, content in (
        (f"/boot/vmlinuz-{version}", kernel(version)),
        (f"/boot/initramfs-{version}.img", ramdisk(version)),
        (f"/boot/config-{version}", b"CONFIG_EXT4_FS=y\n"),
        (f"/lib/modules/{version}/modules.builtin", b"kernel/fs/ext4/ext4.ko\n"),
    )
}
SEEDS: dict[str, Tree] = {
    "fedora": {
        **FEDORA_15,
        **_BOOT,
        "/etc/os-release": "ID=fedora\n",
        "/boot/grub/grub.conf": f"default=1\ntitle a\n kernel /vmlinuz-{NEW}\n"
        f"title b\n kernel /vmlinuz-{OLD} ro\n initrd /initramfs-{OLD}.img\n",
    },
    "debian": {
        **{k.replace("/lib/", "/usr/lib/") if k.startswith("/lib/") else k: v
           for k, v in {**DEBIAN_12, **_BOOT}.items()},
        "/etc/os-release": {"link": "../usr/lib/os-release"},
        "/usr/lib/os-release": "ID=debian\n",
        "/boot/grub/grub.cfg": _GRUB2,
        "/boot/grub/grubenv": "# GRUB Environment Block\nsaved_entry=1\n",
        f"/boot/loader/entries/{NEW}.conf": f"title x\nversion {NEW}\nlinux /vmlinuz-{NEW}\n"
        f"initrd /initramfs-{NEW}.img\n",
    },
}  # fmt: skip
_TARGETS = (
    *("/", ".", "..", "../" * 60 + "etc", "/etc", "x" * 255, "a/" * 450, "\n", "/dev/zero"),
    *("/proc/self/mem", "/etc/passwd", "../../../../../../etc/shadow", f"{BAIT}/file", BAIT),
    *(f"{BAIT}/new", f"../../../../../..{BAIT}/file", "/boot", "/etc/fstab", "fstab"),
)
_WORDS = (
    *("\0", "\n", "\x1b]0;evil\x07", '"', "'", "`id`", "$(id)", "${default}", "%s", "../" * 20),
    *("A" * 70_000, "\xff\xfe", "-1", str(2**32), str(2**64), "/boot/../../../../etc/passwd"),
    *(f"{BAIT}/file", "menuentry {" * 500, "title x\n" * 5000, "UUID=", "LABEL=", "\\\n"),
    *("/ / / / / /\n", "none / ext4\n", "/dev/sda1 /usr ext4\n", "#", "saved_entry=\n"),
)
_SIZES = (0, 1, MIB + 1, 8 * MIB + 1, 1 << 40)
_KINDS = ("text", "text", "text", "link", "link", "gone", "directory", "node", "fifo", "sparse",
          "name", "mode", "hard")  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One entry. kind: of `_KINDS`. data: text, target, size, or the other name."""

    path: str
    kind: str
    data: str = ""


@dataclass(frozen=True)
class Case:
    """A changed tree."""

    seed: str
    changes: tuple[Change, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Case:
        raw = json.loads(text)
        return Case(raw["seed"], tuple(Change(**change) for change in raw["changes"]))


def mutate(seed: str, draw: random.Random) -> Case:
    """One to four changes."""
    tree = SEEDS[seed]
    paths = sorted(tree) + sorted({str(Path(path).parent) for path in tree} - {"/"})
    changes = []
    for _ in range(draw.choice((1, 1, 2, 3, 4))):
        path, kind = draw.choice(paths), draw.choice(_KINDS)
        data = ""
        if kind == "text":
            old = tree.get(path)
            data = _garbled(old if isinstance(old, str) else "", draw)
        elif kind == "link":
            data = draw.choice((*_TARGETS, path, draw.choice(paths)))
        elif kind == "sparse":
            data = str(draw.choice(_SIZES))
        elif kind == "name":
            data = draw.choice(("a\nb", "\n", "-rf", '"', "\x1b[2J", "\udcff", "x" * 255, " "))
        elif kind == "mode":
            data = str(draw.choice((0, 0o777, 0o7777, 0o4755)))
        elif kind == "hard":
            data = draw.choice(paths)
        changes.append(Change(path, kind, data))
    return Case(seed, tuple(changes))


def _garbled(text: str, draw: random.Random) -> str:
    where = draw.randrange(len(text) + 1)
    kind = draw.randrange(4)
    if kind == 0:
        return text[:where] + draw.choice(_WORDS) + text[where:]
    if kind == 1:
        return text[:where]
    if kind == 2:
        return draw.choice(_WORDS) * draw.choice((1, 2, 50))
    return text[:where] + chr(draw.randrange(1, 0x250)) + text[where + 1 :]


class Harness:
    """Makes the file systems and judges what becomes of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runner = Runner()
        self._bait = folder / "bait"
        self._bait.mkdir()
        (self._bait / "file").write_text(SECRET)
        self._before = self._bait_state()

    def cases(self, count: int, seed: int) -> Iterator[Case]:
        """`count` mutations, of each seed in turn."""
        draw = random.Random(seed)
        for number in range(count):
            yield mutate(sorted(SEEDS)[number % len(SEEDS)], draw)

    def close(self) -> None:
        self._runner.close()

    def _bait_state(self) -> list[tuple[str, int, bytes]]:
        return [
            (path.name, path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(self._bait.iterdir())
        ]

    def run(self, case: Case) -> str:
        """One word on how it ended. Raises Faulty, or whatever the pipeline should not raise."""
        scratch = self._folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        image = self._image(case, scratch)
        out = scratch / "kernel.out", scratch / "ramdisk.out"
        tools = Tools(self._runner, QuietProgress(io.StringIO()), scratch)
        try:
            with (
                time_limit(SECONDS),
                open_guest(
                    image,
                    None,
                    backend="e2fsprogs",
                    acceleration=Acceleration("tcg", "tests"),
                    tools=tools,
                ) as guest,
            ):
                boot = collect(guest, *out, tools)
                customize(guest, user="root", templates=PROJECT / "templates", tools=tools)
            end = "made"
        except (GuestError, DiskError) as error:
            str(error).encode()  # what is printed holds no lone surrogates
            end = type(error).__name__
        self._judge_host(image.path, *out)
        if end == "made":
            self._judge(image.path, case, *out, boot.kernel_version)
        return end

    def _image(self, case: Case, scratch: Path) -> PartitionImage:
        tree, path = scratch / "tree", scratch / "root.img"
        tree.mkdir()
        for name, content in SEEDS[case.seed].items():
            put(tree, name, content)
        for change in case.changes:
            # Two changes may be at odds, say a file below a link: the first one stands.
            with contextlib.suppress(OSError, ValueError, UnsafeError):
                _apply(tree, change, str(self._bait))
        with path.open("wb") as file:
            file.truncate(24 * MIB)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", tree, path)
        with Reader(path) as reader:
            superblock = reader.superblock
        return PartitionImage(path, 24 * MIB, "ext4", superblock.uuid, "", "the tests")

    def _judge_host(self, *made: Path) -> None:
        if self._bait_state() != self._before:
            raise Faulty("the bait was changed")
        for path in made:
            if path.exists() and SECRET.encode() in path.read_bytes():
                raise Faulty(f"{path.name} holds the bait's content")

    def _judge(self, image: Path, case: Case, kernel: Path, ramdisk: Path, version: str) -> None:
        run("e2fsck", "-f", "-n", image)
        fstab = run("debugfs", "-R", "cat /etc/fstab", image)
        root = [line for line in fstab.splitlines() if line.split()[1:2] == ["/"]]
        if root != ["LABEL=uec-rootfs / ext4 defaults 0 0"]:
            raise Faulty(f"fstab is {fstab!r}")
        if run("blkid", "-p", "-o", "value", "-s", "LABEL", image).strip() != "uec-rootfs":
            raise Faulty("the label is another")
        contents = {
            path.read_bytes()
            for path in (self._folder / "scratch/tree/boot").rglob("*")
            if path.is_file() and not path.is_symlink() and path.stat().st_size < MIB
        }
        for path in (kernel, ramdisk):
            if path.read_bytes() not in contents:
                raise Faulty(f"{path.name} is no file of the guest's /boot")
        if f"{version} (".encode() not in kernel.read_bytes():
            raise Faulty(f"the kernel is not {version}")


class UnsafeError(Exception):
    """A change would leave the tree through a link that an earlier change made."""


def _inside(tree: Path, path: str) -> Path:
    """The host's path of a guest path whose directories are no links."""
    place = tree
    for name in path.strip("/").split("/")[:-1]:
        place = place / name
        if place.is_symlink() and not place.resolve().is_relative_to(tree):
            raise UnsafeError(path)
    return tree / path.lstrip("/")


def put(tree: Path, name: str, content: str | bytes | Mapping[str, str] | None) -> None:
    """One entry of a seed below a directory of the host."""
    path = _inside(tree, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.mkdir(exist_ok=True)
    elif isinstance(content, Mapping):
        path.symlink_to(content["link"])
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def _apply(tree: Path, change: Change, bait: str) -> None:
    path = _inside(tree, change.path)
    data = change.data.replace(BAIT, bait)
    if change.kind == "mode":
        if not path.is_symlink():
            path.chmod(int(data))
        return
    if change.kind == "name":
        (path if path.is_dir() and not path.is_symlink() else path.parent).joinpath(
            data
        ).write_text("x")
        return
    if change.kind == "hard":
        other = _inside(tree, data)
        if not stat.S_ISREG(other.lstat().st_mode):
            return
        _drop(path)
        os.link(other, path)
        return
    _drop(path)
    if change.kind == "text":
        path.write_bytes(data.encode(errors="surrogateescape"))
    elif change.kind == "link":
        path.symlink_to(data)
    elif change.kind == "directory":
        path.mkdir()
    elif change.kind == "node":
        os.mknod(path, stat.S_IFBLK | 0o666, os.makedev(8, 0))
    elif change.kind == "fifo":
        os.mkfifo(path)
    elif change.kind == "sparse":
        with path.open("wb") as file:
            file.truncate(int(data))


def _drop(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(__doc__, Harness))
