"""What is done to a guest's root before and after rpm's transaction: a script that runs inside it.

It runs by the host's Python in the guest's isolation, because a package may have put anything at
the places it writes to. Its first argument is one of `STEPS`; what it answers is a JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import struct
import sys
from collections.abc import Iterator
from typing import Any

MACHINE_ID = "d2f0c1a4e7b84f6ba95c3e6d18720fb4"
"""Everybody's while packages are installed, so that what is named by it has the same name again."""
DRACUT = "/etc/dracut.conf.d/zz-image-build.conf"
CMDLINE = "/etc/kernel/cmdline"
_DRACUT_TEXT = 'hostonly="no"\nhostonly_cmdline="no"\nreproducible="yes"\n'
_OURS = "/.tools"
_NOT_THE_GUESTS = frozenset({"/proc", "/sys", "/dev", _OURS})
_RUBBISH = (
    *("/var/cache/ldconfig/aux-cache", "/var/lib/systemd/random-seed", "/var/lib/random-seed"),
    *("/boot/loader/random-seed", "/var/lib/dbus/machine-id", "/root/.rpmdb"),
)
_RAMDISKS = ("/boot/initramfs-{v}.img", "/boot/initrd.img-{v}", "/boot/initrd-{v}",
             f"/boot/{MACHINE_ID}/{{v}}/initrd")  # fmt: skip
_DATABASE = "rpmdb.sqlite"
_INTEGERS = {"INSTALLTIME": 1008, "BUILDTIME": 1006, "INSTALLTID": 1128}
_ENTRY = struct.Struct(">iiii")
_Header = dict[str, tuple[int, int]]


def exists(path: str) -> bool:
    """Whether anything is there, be it a link that leads nowhere."""
    return os.path.lexists(path)


def write(path: str, text: str) -> None:
    """Write a small new file at the guest's place, whatever was there."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)  # noqa: PTH103, PTH120
    remove(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def remove(path: str) -> None:
    """Remove a file or an empty directory, where it is."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rmdir(path)  # noqa: PTH106
        else:
            os.unlink(path)  # noqa: PTH108


def prepare(asked: dict[str, Any]) -> dict[str, Any]:
    """Have scriptlets find no host to adapt to.

    A kernel's scriptlets write the command line of the running kernel into boot entries, and a
    ramdisk for the devices that are here, unless they are told otherwise.
    """
    made = [
        path
        for path in ("/etc", "/etc/kernel", "/etc/dracut.conf.d")
        if not exists(path)
    ]  # fmt: skip
    write("/etc/machine-id", f"{MACHINE_ID}\n")
    write(DRACUT, _DRACUT_TEXT)
    cmdline = not exists(CMDLINE)
    if cmdline:
        write(CMDLINE, asked["command_line"] + "\n")
    return {"made": made, "cmdline": cmdline}


def kernels(_: dict[str, Any]) -> dict[str, Any]:
    """Fill /boot where no scriptlet did; kernels that have no ramdisk yet."""
    found = []
    modules = "/usr/lib/modules"
    for version in sorted(os.listdir(modules)) if os.path.isdir(modules) else ():  # noqa: PTH112, PTH208
        image = f"{modules}/{version}/vmlinuz"
        if not os.path.isfile(image):  # noqa: PTH113
            continue
        if not any(map(exists, (f"/boot/vmlinuz-{version}",
                                f"/boot/{MACHINE_ID}/{version}/linux"))):  # fmt: skip
            with open(image, "rb") as file:  # noqa: PTH123
                content = file.read()
            descriptor = os.open(f"/boot/vmlinuz-{version}", os.O_WRONLY | os.O_CREAT, 0o755)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        if not any(exists(place.format(v=version)) for place in _RAMDISKS):
            found.append(version)
    return {"kernels": found, "dracut": program("dracut")}


def accounts(_: dict[str, Any]) -> dict[str, Any]:
    """The guest's program that makes the users of sysusers.d, "" for none."""
    return {"sysusers": program("systemd-sysusers")}


def program(name: str) -> str:
    """The guest's program of that name, "" for none."""
    places = (f"{folder}/{name}" for folder in ("/usr/bin", "/usr/sbin", "/bin", "/sbin"))
    return next(filter(os.path.isfile, places), "")


def settle(asked: dict[str, Any]) -> dict[str, Any]:
    """Take away what the transaction left, and make times and the database the same again.

    The database is moved to where the guest's rpm looks for it, and written anew: its bytes follow
    from its content. Times after the newest package was made become that time.
    """
    place = move_database(asked["from"], asked["to"])
    epoch = asked["epoch"]
    database = f"{place}/{_DATABASE}"
    if os.path.isfile(database):  # noqa: PTH113
        epoch = max(epoch, rewrite(database, epoch))
    for name in (".rpm.lock", f"{_DATABASE}-shm", f"{_DATABASE}-wal"):
        remove(f"{place}/{name}")
    for path in _RUBBISH:
        if not stat.S_ISDIR(mode(path)):
            remove(path)
    remove(DRACUT)
    if asked["cmdline"]:
        remove(CMDLINE)
    for path in reversed(asked["made"]):
        if path != "/etc" and not owned(database, path):
            remove(path)
    write("/etc/machine-id", "")
    os.chmod("/etc/machine-id", 0o444)  # noqa: PTH101
    relabel = wants_labels()
    if relabel:
        write("/.autorelabel", "")
    clamp(epoch)
    return {"epoch": epoch, "relabel": relabel}


def wants_labels() -> bool:
    """Whether SELinux is on in the guest, and its files have no labels yet.

    They have none where we may not write them: security.selinux belongs to the host's root.
    """
    settings = {}
    with contextlib.suppress(OSError), open("/etc/selinux/config") as file:  # noqa: PTH123
        for line in file:
            name, _, value = line.partition("=")
            settings[name.strip()] = value.strip()
    policy = f"/etc/selinux/{settings.get('SELINUXTYPE', '')}/contexts/files/file_contexts"
    if settings.get("SELINUX", "disabled") == "disabled" or not exists(policy):
        return False
    with contextlib.suppress(OSError):
        return not os.getxattr("/usr", "security.selinux")
    return True


def mode(path: str) -> int:
    """The file's mode, 0 where there is none."""
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def move_database(source: str, target: str) -> str:
    """Move rpm's database, unless it is there already or the place leads there; its place."""
    if not os.path.isfile(f"{source}/{_DATABASE}"):  # noqa: PTH113
        return target
    os.makedirs(target, 0o755, exist_ok=True)  # noqa: PTH103
    if os.path.realpath(source) == os.path.realpath(target):
        return target
    for name in os.listdir(source):  # noqa: PTH208
        os.replace(f"{source}/{name}", f"{target}/{name}")  # noqa: PTH105
    for path in (source, os.path.dirname(source)):  # noqa: PTH120
        if not owned(f"{target}/{_DATABASE}", path):
            remove(path)
    return target


def rewrite(path: str, epoch: int) -> int:
    """Write the database anew with no time after the newest package's; that time.

    The same rows in the same order give the same bytes, which a database that has been at work
    does not: its pages and counters tell its history.
    """
    new = f"{path}.new"
    remove(new)
    old = sqlite3.connect(path)
    out = sqlite3.connect(new, isolation_level=None)
    blobs = dict(old.execute("SELECT hnum, blob FROM Packages ORDER BY hnum"))
    headers = {number: integers(blob) for number, blob in blobs.items()}
    latest = max([epoch, *(h["BUILDTIME"][1] for h in headers.values() if "BUILDTIME" in h)])
    for pragma in ("page_size", "user_version", "application_id"):
        (value,) = old.execute(f"PRAGMA {pragma}").fetchone()
        out.execute(f"PRAGMA {pragma} = {value}")
    out.execute("BEGIN")
    schema = old.execute("SELECT type, name, sql FROM sqlite_master WHERE sql NOT NULL ORDER BY"
                         " rowid").fetchall()  # fmt: skip
    for kind in ("table", "index"):
        for each, name, sql in schema:
            if each != kind or name.startswith("sqlite_"):
                continue
            out.execute(sql)
            if kind == "table":
                copy_rows(old, out, name, headers, latest)
    for name, sequence in old.execute("SELECT name, seq FROM sqlite_sequence"):
        out.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (sequence, name))
    out.execute("COMMIT")
    old.close()
    out.close()
    os.chmod(new, stat.S_IMODE(os.stat(path).st_mode))  # noqa: PTH101, PTH116
    for suffix in ("-wal", "-shm"):
        remove(path + suffix)
    os.replace(new, path)  # noqa: PTH105
    return latest


def copy_rows(
    old: sqlite3.Connection,
    out: sqlite3.Connection,
    table: str,
    headers: dict[int, _Header],
    latest: int,
) -> None:
    """Copy a table; times of installing after `latest` (seconds) become that."""
    columns = [row[1] for row in old.execute(f"PRAGMA table_info('{table}')")]
    marks = ", ".join("?" * len(columns))
    for row in old.execute(f"SELECT * FROM '{table}' ORDER BY rowid"):  # noqa: S608 # rpm's names
        values = list(row)
        if table == "Packages":
            values[1] = clamped(row[1], headers[row[0]], latest)
        elif table == "Installtid" and isinstance(row[0], bytes) and len(row[0]) == 4:
            values[0] = min(int.from_bytes(row[0], sys.byteorder), latest).to_bytes(
                4, sys.byteorder
            )
        out.execute(f"INSERT INTO '{table}' VALUES ({marks})", values)  # noqa: S608


def entries(blob: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, offset in the blob and count of each entry of a header."""
    count, _ = struct.unpack_from(">ii", blob)
    data = 8 + count * _ENTRY.size
    for number in range(count):
        tag, kind, offset, amount = _ENTRY.unpack_from(blob, 8 + number * _ENTRY.size)
        yield tag, kind, data + offset, amount


def integers(blob: bytes) -> _Header:
    """Offset and value of the times in a header, by `_INTEGERS`' names."""
    names = {tag: name for name, tag in _INTEGERS.items()}
    return {
        names[tag]: (offset, struct.unpack_from(">I", blob, offset)[0])
        for tag, kind, offset, _ in entries(blob)
        if tag in names and kind == 4
    }


def clamped(blob: bytes, header: _Header, latest: int) -> bytes:
    """The header with its times of installing not after `latest`."""
    changed = bytearray(blob)
    for name in ("INSTALLTIME", "INSTALLTID"):
        if name in header and header[name][1] > latest:
            struct.pack_into(">I", changed, header[name][0], latest)
    return bytes(changed)


def strings(blob: bytes, offset: int, count: int) -> list[bytes]:
    """An array of strings of a header."""
    return blob[offset:].split(b"\0", count)[:count]


def owned(database: str, path: str) -> bool:
    """Whether a package has the path among its files."""
    if not os.path.isfile(database):  # noqa: PTH113
        return False
    folder, _, name = path.rpartition("/")
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute(
            "SELECT blob FROM Packages WHERE hnum IN (SELECT hnum FROM Basenames WHERE key = ?)",
            (name,),
        ).fetchall()
    finally:
        connection.close()
    for (blob,) in rows:
        found = {tag: (kind, offset, count) for tag, kind, offset, count in entries(blob)}
        if not {1116, 1117, 1118} <= found.keys():
            continue
        names = strings(blob, *found[1117][1:])
        folders = strings(blob, *found[1118][1:])
        indexes = struct.unpack_from(f">{found[1116][2]}i", blob, found[1116][1])
        if any(n == name.encode() and folders[i] == f"{folder}/".encode()
               for n, i in zip(names, indexes, strict=True)):  # fmt: skip
            return True
    return False


def clamp(epoch: int) -> None:
    """No file of the guest is newer than `epoch`, seconds."""
    nanoseconds = epoch * 1_000_000_000
    pending = ["/"]
    while pending:
        with os.scandir(pending.pop()) as found:
            for entry in found:
                if entry.path in _NOT_THE_GUESTS:
                    continue
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
                if status.st_mtime_ns > nanoseconds:
                    os.utime(entry.path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)


def places(asked: dict[str, Any]) -> dict[str, Any]:
    """Right modes and times for what was mounted over, seen from outside, and for the root.

    It opens directories only and follows no link of the guest's.
    """
    root = os.open(asked["root"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    for name, right in (("proc", 0o555), ("sys", 0o555), ("dev", 0o755), (".", None)):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            descriptor = os.open(name, flags, dir_fd=root)
        except OSError:
            continue
        if right is not None:
            os.fchmod(descriptor, right)
        if os.fstat(descriptor).st_mtime > asked["epoch"]:
            os.utime(descriptor, (asked["epoch"], asked["epoch"]))
        os.close(descriptor)
    return {}


STEPS = {
    "prepare": prepare,
    "accounts": accounts,
    "kernels": kernels,
    "settle": settle,
    "places": places,
}

if __name__ == "__main__":
    print(json.dumps(STEPS[sys.argv[1]](json.loads(sys.argv[2]))))
