"""What is asked inside the guest, in one POSIX shell script, and how its answer is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.core.fstab import Entry, around, normal, parse, unescaped, unquoted

_MARK = "==boot-check=="

_SECTIONS: tuple[tuple[str, str], ...] = (
    ("kernel", "uname -r"),
    ("command_line", "cat /proc/cmdline"),
    ("init", "cat /proc/1/comm"),
    ("mountinfo", "cat /proc/self/mountinfo"),
    ("mounts", "cat /proc/mounts"),
    ("swaps", "cat /proc/swaps"),
    ("fstab", "cat /etc/fstab"),
    (
        "root_sectors",
        'number=$(while read -r _ _ dev _ mount _; do [ "$mount" = / ] && echo "$dev"; done'
        " </proc/self/mountinfo | tail -n 1); cat /sys/dev/block/$number/size",
    ),
    ("root_kib", "df -Pk /"),
    ("addresses", "ip -4 addr 2>/dev/null || ifconfig"),
    # The key script may be a late unit, so its work is looked at when units have settled.
    (
        "units",
        "tries=0; while [ $tries -lt {patience} ]; do case $(systemctl is-system-running) in"
        " starting | initializing) tries=$((tries + 1)); sleep 1 ;; *) break ;; esac; done;"
        " systemctl is-system-running;"
        " systemctl --failed --no-legend --no-pager --full || systemctl list-units --failed",
    ),
    (
        "failed_mounts",
        "systemctl --failed --no-legend --no-pager --full | while read -r one two _; do"
        " case $one in *.mount) two=$one ;; esac; case $two in *.mount) echo Unit=$two;"
        ' systemctl show -p What -p Where -p Type -p Options -p Description "$two" ;; esac; done',
    ),
    ("user", "id -u"),
    ("key_modes", 'ls -ldn "$HOME" "$HOME/.ssh" "$HOME/.ssh/authorized_keys"'),
    ("keys", 'cat "$HOME/.ssh/authorized_keys"'),
    ("machine_id", "cat /etc/machine-id /var/lib/dbus/machine-id"),
    ("modules", "ls /lib/modules"),
    (
        "selinux",
        'cat /sys/fs/selinux/enforce /selinux/enforce; ls -Zd "$HOME/.ssh/authorized_keys"',
    ),
)


@dataclass(frozen=True)
class Facts:
    """The guest's answers. Every value is the guest's word: text, bounded by the reader.

    root_bytes: of the block device the root lies on. root_usable: of the file system, as df
    counts. keys: the lines of authorized_keys. modes: mode string, owner, group of the home
    directory, .ssh and authorized_keys. failed_units: None without systemd. selinux: (enforcing,
    what ls says of authorized_keys). failed_mounts: mount units that failed, as lines of fstab
    would say them, their names in place of the line.
    """

    kernel: str
    command_line: str
    init: str
    root_device: str
    root_options: tuple[str, ...]
    root_bytes: int
    root_usable: int
    mount_points: frozenset[str]
    swaps: int
    fstab: str
    addresses: tuple[str, ...]
    uid: str
    modes: Mapping[str, tuple[str, str, str]]
    keys: tuple[str, ...]
    machine_id: str
    module_versions: tuple[str, ...]
    selinux_enforcing: bool
    selinux_listing: str
    system_state: str
    failed_units: tuple[str, ...] | None = field(default=None)
    failed_mounts: tuple[Entry, ...] = ()
    mount_titles: Mapping[str, str] = field(default_factory=dict)


def script(patience: int) -> str:
    """The script; it waits at most about `patience` seconds for systemd to settle."""
    parts = ["LC_ALL=C; export LC_ALL; PATH=$PATH:/usr/sbin:/sbin"]
    for name, command in _SECTIONS:
        parts.append(f"echo; echo '{_MARK} {name}'")
        parts.append("{ " + command.replace("{patience}", str(patience)) + "; } 2>/dev/null")
    parts.append(f"echo; echo '{_MARK} end'")
    return "\n".join(parts) + "\n"


def read_facts(said: str) -> Facts | None:
    """The answers, or None when the script did not come to its end."""
    sections = _sections(said)
    if "end" not in sections:
        return None

    def one(name: str) -> str:
        return next(iter(sections.get(name, [])), "")

    device, options = _root_mount(sections.get("mounts", []))
    units = sections.get("units", [])
    selinux = sections.get("selinux", [])
    return Facts(
        kernel=one("kernel"),
        command_line=one("command_line"),
        init=one("init"),
        root_device=device,
        root_options=options,
        root_bytes=_number(one("root_sectors")) * 512,
        root_usable=_usable(sections.get("root_kib", [])),
        mount_points=frozenset(
            words[1] for words in map(str.split, sections.get("mounts", [])) if len(words) > 1
        ),
        swaps=max(0, len(sections.get("swaps", [])) - 1),
        fstab="\n".join(sections.get("fstab", [])),
        addresses=tuple(
            re.findall(r"inet (?:addr:)?([0-9.]{7,15})", "\n".join(sections.get("addresses", [])))
        ),
        uid=one("user"),
        modes=_modes(sections.get("key_modes", [])),
        keys=tuple(sections.get("keys", [])),
        machine_id=one("machine_id"),
        module_versions=tuple(sections.get("modules", [])),
        selinux_enforcing=selinux[:1] == ["1"],
        selinux_listing=selinux[-1] if selinux else "",
        system_state=units[0] if units else "",
        failed_units=tuple(_unit_name(line) for line in units[1:]) if units else None,
        failed_mounts=tuple(_failed_mounts(sections.get("failed_mounts", []))),
        mount_titles=_titles(sections.get("failed_mounts", [])),
    )


def fstab_faults(facts: Facts) -> list[str]:
    """The entries of /etc/fstab that should be mounted or swapped on and are not (fstab(5)).

    What comes from a server cannot be: the guest of a check has no network.
    """
    faults = []
    swaps = 0
    mounted = {normal(unescaped(point)) for point in facts.mount_points}
    unreachable = set(network_mounts(facts))
    for entry in parse(facts.fstab):
        if not entry.kind or entry.may_fail or entry in unreachable:
            continue
        if entry.is_swap:
            swaps += 1
            if swaps > facts.swaps:
                faults.append(entry.line)
        elif entry.target not in ("none", "swap") and (entry.place or entry.target) not in mounted:
            faults.append(entry.line)
    return faults


def network_mounts(facts: Facts) -> list[Entry]:
    """The mounts of the guest that need a network, by fstab or failed units; with what is bound
    to them.
    """
    entries = [entry for entry in parse(facts.fstab) if entry.kind and not entry.is_swap]
    entries += facts.failed_mounts
    found = {entry: None for entry in entries if entry.needs_network}
    points = {entry.place for entry in found if entry.place}
    for entry in entries:
        if any(point in points for source in entry.places for point in around(source)):
            found[entry] = None
            points.add(entry.place)
    return list(found)


def _sections(said: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in said.splitlines():
        if line.startswith(f"{_MARK} "):
            current = sections.setdefault(line.removeprefix(f"{_MARK} ").strip(), [])
        elif line.strip():
            current.append(line.strip()[:2000])
    return sections


def _root_mount(lines: list[str]) -> tuple[str, tuple[str, ...]]:
    # The last line for "/" is what is visible: an initramfs's rootfs may stand above it.
    for words in reversed([line.split() for line in lines]):
        if len(words) > 3 and words[1] == "/":
            return words[0], tuple(words[3].split(","))
    return "", ()


def _usable(lines: list[str]) -> int:
    words = lines[-1].split() if lines else []
    return _number(words[1]) * 1024 if len(words) >= 6 else 0


def _modes(lines: list[str]) -> dict[str, tuple[str, str, str]]:
    found = {}
    for line in lines:
        words = line.split()
        if len(words) < 9:
            continue
        last = words[-1].rpartition("/")[2]
        place = {".ssh": "ssh", "authorized_keys": "keys"}.get(last, "home")
        # A trailing "." or "+" would mark a security context or an access list.
        found[place] = (words[0][:10], words[2], words[3])
    return found


def _unit_name(line: str) -> str:
    words = [word for word in line.split() if word not in ("●", "*", "×")]
    return words[0] if words else ""


def _failed_mounts(lines: list[str]) -> Iterator[Entry]:
    """What systemctl shows of failed mount units, a line "Unit=..." before each."""
    shown: dict[str, str] = {}
    for line in [*lines, "Unit="]:
        name, _, value = line.partition("=")
        if name == "Unit":
            if shown.get("Unit"):
                options = tuple(shown.get("Options", "").split(","))
                what, where, kind = (shown.get(key, "") for key in ("What", "Where", "Type"))
                yield Entry(shown["Unit"], unquoted(what), where, kind or "auto", options)
            shown = {}
        shown[name] = value


def _titles(lines: list[str]) -> dict[str, str]:
    """Unit -> its description, which is what some versions of systemd call it on the console."""
    found, unit = {}, ""
    for line in lines:
        name, _, value = line.partition("=")
        if name == "Unit":
            unit = value
        elif name == "Description" and unit:
            found[unit] = value
    return found


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0
