"""Takes space, inodes, descriptors, memory or a working disk from the pipeline, at seeded points.

    python -m tests.robustness.faults.scarcity [--disk DISK] [--points 100] [--only WORDS]

A build of a new disk over a finished build, then its upload to the local catalogue, all on a
tmpfs. Real limits wherever there are some: the tmpfs is filled or takes no further file from a
step on, is small or read-only from the start, and prlimit(1) sets resource limits. Where a disk
would have to break, strace(1) makes one system call of a file fail. After each point: the exit
code and the words, the earlier build or the new one whole under its manifest, no partial file, no
process; then the same command without the fault completes. Needs root, for the mounts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.robustness.faults.bench import Bench, World, become_subreaper, orderly_end
from tests.robustness.faults.disks import small_disk
from tests.robustness.faults.trampoline import HOG

MIB = 1 << 20
_INODES = 100_000
LARGE = "1g"  # of the tmpfs: four times what two builds of a demo's disk and their catalogue take
_CALLS = ("copy_file_range", "fsync", "ftruncate", "pwrite64", "rename", "mkdir")
_READS = "pread64,preadv,preadv2,copy_file_range"
_FULL = r"No space left|needs about \d+ MiB|needs \d+ MiB|Could not allocate|full"


@dataclass(frozen=True)
class Lack:
    """One fault.

    text: for people. step, deed: of the trampoline. wrap: a program around the command. size: of
    the tmpfs beyond what is in use, in bytes; None for a large one. readonly: a directory of the
    bench that cannot be written. room: bytes that the run's own output may have. codes: exit codes
    that fit. says: what the error must match.
    """

    text: str
    codes: frozenset[int]
    says: str
    step: int = 0
    deed: str = ""
    wrap: tuple[str, ...] = ()
    size: int | None = None
    readonly: str = ""
    room: int = sys.maxsize


@dataclass(frozen=True)
class Extent:
    """What an undisturbed run has. place: where its tmpfs is mounted. disk: what it reads. calls:
    by system call, and as "source" the reads of the disk.
    """

    steps: int
    place: Path
    disk: Path
    calls: Mapping[str, int]


def lacks(count: int, seed: int, extent: Extent) -> list[Lack]:
    """`count` different faults, every kind in turn."""
    rng = random.Random(seed)
    return [_KINDS[index % len(_KINDS)](rng, extent) for index in range(count)]


def _fills(rng: random.Random, extent: Extent) -> Lack:
    step, left = (
        rng.randint(1, extent.steps),
        rng.choice((0, 0, 4096, 65536, MIB, 8 * MIB)),
    )
    return Lack(
        f"the disk fills at step {step} but for {left} bytes",
        frozenset({3, 7}),
        _FULL,
        step=step,
        deed=f"fill:{extent.place}:{left}",
    )


def _small(rng: random.Random, extent: Extent) -> Lack:
    size = int(2 ** rng.uniform(10, 26.5))
    return Lack(f"{size} bytes are free", frozenset({3, 7}), _FULL, size=size)


def _inodes(rng: random.Random, extent: Extent) -> Lack:
    step = rng.randint(1, extent.steps)
    text = f"no file can be made from step {step} on"
    return Lack(text, frozenset({3, 7}), _FULL, step=step, deed=f"inodes:{extent.place}")


def _descriptors(rng: random.Random, extent: Extent) -> Lack:
    step, more = rng.randint(1, extent.steps), rng.randrange(6)
    return Lack(
        f"{more} more open files from step {step} on",
        frozenset({3, 7}),
        "Too many open files",
        step=step,
        deed=f"descriptors:{more}",
    )


def _bad_source(rng: random.Random, extent: Extent) -> Lack:
    number = rng.randint(1, extent.calls["source"])
    return Lack(
        f"reading the installed disk fails from read {number} on",
        frozenset({5}),
        "Input/output error at byte",
        wrap=_strace(_READS, "EIO", f"{number}+", extent.disk),
    )


def _bad_target(rng: random.Random, extent: Extent) -> Lack:
    call = rng.choice([call for call in _CALLS if extent.calls.get(call)])
    error, words = rng.choice((("EIO", "Input/output error"), ("EDQUOT", "quota exceeded")))
    if call in ("rename", "mkdir") and error == "EIO":
        error, words = "EROFS", "Read-only file system"
    number = rng.randint(1, extent.calls[call])
    return Lack(
        f"{call} fails with {error} from call {number} on",
        # EIO of copy_file_range may be the source's.
        frozenset({3, 5, 7}),
        words,
        wrap=_strace(call, error, f"{number}+"),
    )


def _strace(calls: str, error: str, when: str, path: Path | None = None) -> tuple[str, ...]:
    only = ("-P", str(path)) if path else ()
    return ("strace", "-f", "-qqq", "--seccomp-bpf", "-o", "/dev/null", *only,
            "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={when}")  # fmt: skip


def _readonly(rng: random.Random, extent: Extent) -> Lack:
    which = rng.choice(("build", "catalogue"))
    text = f"the {which} directory is read-only"
    return Lack(text, frozenset({3, 7}), "Read-only file system|not a writable", readonly=which)


def _file_size(rng: random.Random, extent: Extent) -> Lack:
    size = int(2 ** rng.uniform(8, 31))
    text = f"no file may exceed {size} bytes"
    return Lack(
        text,
        frozenset({3, 7}),
        "File too large|SIGXFSZ|status",
        wrap=("prlimit", f"--fsize={size}"),
        room=size,
    )


def _memory(rng: random.Random, extent: Extent) -> Lack:
    size = rng.randrange(120 * MIB, 600 * MIB)
    text = f"the address space is {size >> 20} MiB"
    says = "out of memory|allocate memory|start new thread|MemoryError|Cannot allocate"
    return Lack(text, frozenset({1, 3, 7}), says, wrap=("prlimit", f"--as={size}"))


_KINDS = (
    _fills,
    _bad_target,
    _inodes,
    _small,
    _bad_source,
    _descriptors,
    _fills,
    _readonly,
    _file_size,
    _memory,
)


@contextlib.contextmanager
def scene(directory: Path, disk: Path | None) -> Iterator[tuple[Bench, World]]:
    """A finished, catalogued build on a tmpfs, and the bench that builds its successor."""
    place, saved, logs = (directory / word for word in ("place", "saved", "logs"))
    for path in (place, saved, logs):
        path.mkdir()
    disk = disk or small_disk(directory / "disk.img")
    for name in ("old", "new"):  # the disk's path is part of what a step is remembered by
        (directory / name).symlink_to(disk.absolute())
    words = ["build", "demo", "--no-verify", "upload", "--unverified"]
    old = Bench(saved, [*words[:2], "--disk", str(directory / "old"), *words[2:]], logs=logs)
    if old.run():
        raise RuntimeError(old.output.read_text()[-2000:])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={LARGE}", "faults", place], check=True)
    try:
        new = [*words[:2], "--disk", str(directory / "new"), *words[2:]]
        yield Bench(place, new, logs=logs, reset=lambda: _restore(saved, place)), World.now()
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def _restore(saved: Path, place: Path) -> None:
    """The finished build as it was, on a large empty tmpfs."""
    _lift(place)
    for path in place.iterdir():
        shutil.rmtree(path)
    subprocess.run(["cp", "-a", "--sparse=always", f"{saved}/.", place], check=True)


def _lift(place: Path) -> None:
    """Every limit of the tmpfs is gone."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        where = line.split()[1]
        if where.startswith(f"{place}/"):
            subprocess.run(["umount", where], check=True)
    _remount(place, f"size={LARGE},nr_inodes={_INODES}")
    (place / HOG).unlink(missing_ok=True)


def _impose(lack: Lack, place: Path) -> None:
    if lack.size is not None:
        status = os.statvfs(place)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        _remount(place, f"size={used + lack.size}")
    if lack.readonly:
        where = place / lack.readonly
        subprocess.run(["mount", "--bind", where, where], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", where], check=True)


def try_one(lack: Lack, bench: Bench, before: World) -> tuple[int, list[str]]:
    """The exit code under the fault, and what was wrong with it or after it."""
    bench.forget()
    _impose(lack, bench.directory)
    status = bench.run(lack.step, lack.deed, wrap=lack.wrap)
    words = bench.output.read_text(errors="replace")
    _lift(bench.directory)
    found = wording(lack, status, words) + bench.faults(before)
    if not (bench.directory / "build" / "demo" / "manifest.json").exists():
        found.append("neither the earlier build nor the new one is there")
    found += [f"{path} was left" for path in _leftovers(bench.directory)]
    again = bench.whole_faults(before, bench.run())
    return status, found + [f"the rerun: {fault}" for fault in again]


def wording(lack: Lack, status: int, words: str) -> list[str]:
    """What is wrong with an exit code and with what was said."""
    if status == 0:  # it did not bite, or it was survived
        return []
    said = " | ".join(words.splitlines()[-3:])[-700:]
    if status not in lack.codes:
        return [f"exit code {status}: {said}"]
    if len(words.encode()) >= lack.room:  # there was no room to say any more
        return []
    if re.search(lack.says, words) is None:
        return [f"the error does not say what is lacking: {said}"]
    paragraphs = [line for line in words.splitlines() if re.match(r"(\S+: )?Cannot ", line)]
    if not paragraphs:
        return [f"no explanation: {said}"]
    # Memory, and the descriptors of a pipe, belong to no file.
    nameless = "memory" in lack.says or "open files" in lack.says
    if not nameless and not any("/" in line for line in paragraphs):
        return [f"the error names no file: {said}"]
    return []


def _leftovers(place: Path) -> list[Path]:
    """Files and directories that an orderly end takes away."""
    return [
        path.relative_to(place)
        for path in place.rglob("*")
        if path.name.endswith(".partial") or path.name == ".work"
    ]


def series(disk: Path | None, count: int, seed: int, only: str = "") -> list[str]:
    """Try `count` faults, one line each; what was wrong. only: part of the faults' texts."""
    orderly_end()
    become_subreaper()
    with (
        tempfile.TemporaryDirectory(prefix="scarcity-") as name,
        scene(Path(name), disk) as (bench, before),
    ):
        bench.forget()
        found = [f"undisturbed: {f}" for f in bench.whole_faults(before, bench.run())]
        if found:
            return found
        extent = _measure(bench, Path(name) / "new")
        print(f"undisturbed: {extent.steps} steps, {extent.calls}", flush=True)
        for index, lack in enumerate(lacks(count, seed, extent), 1):
            if only not in lack.text:
                continue
            status, faults = try_one(lack, bench, before)
            print(f"{index:4} {lack.text}: {status}, {faults or 'clean'}", flush=True)
            found += [f"{lack.text}: {fault}" for fault in faults]
    return found


def _measure(bench: Bench, disk: Path) -> Extent:
    """How many steps and calls an undisturbed run has."""
    steps = len(bench.steps)
    counted = bench.logs / "calls"
    calls: dict[str, int] = {}
    for word, traced, only in (
        ("target", ",".join(_CALLS), ()),
        ("source", _READS, ("-P", str(disk))),
    ):
        bench.forget()
        bench.run(
            wrap=(
                "strace",
                "-f",
                "-qqq",
                "--seccomp-bpf",
                "-c",
                "-o",
                str(counted),
                *only,
                "-e",
                traced,
            )
        )
        for line in counted.read_text().splitlines():
            fields = line.split()
            if len(fields) >= 5 and fields[-1] in (_CALLS if word == "target" else _READS):
                name = fields[-1] if word == "target" else "source"
                calls[name] = calls.get(name, 0) + int(fields[3])
    return Extent(steps, bench.directory, disk, calls)


def main(words: Sequence[str] | None = None) -> None:
    """Run a series from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disk", type=Path, help="an installed disk to start from")
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only faults whose text has this in it")
    options = parser.parse_args(words)
    found = series(options.disk, options.points, options.seed, options.only)
    print(f"{options.points} points, {len(found)} faults")
    for fault in found:
        print(fault)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
