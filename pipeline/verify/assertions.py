"""From the records of the boots to the table of assertions: pure, no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.core.checks import Assertion
from pipeline.core.fstab import Entry
from pipeline.verify import assertion_names, probe
from pipeline.verify.boot import Record
from pipeline.verify.metadata import Key
from pipeline.verify.qemu_command import GUEST_ADDRESS

_LEAST_USABLE = 0.7  # of the volume: journal and inode tables take up to a quarter of a tiny one


@dataclass(frozen=True)
class Expected:
    """What the guest should show. size: of the machine image in bytes, None for a whole disk."""

    size: int | None
    selinux_type: str
    keys: tuple[Key, ...]
    seconds: float


@dataclass(frozen=True)
class Boots:
    """The boots of a check by what they are for; None when not run.

    first: fresh overlay. again: the same overlay once more. other: another fresh overlay, with
    the other command line or firmware. bare: a fresh one without metadata.
    """

    first: Record
    other: Record
    again: Record | None = None
    bare: Record | None = None
    with_bare: bool = True

    def all(self) -> list[Record]:
        """Those that ran."""
        return [r for r in (self.first, self.again, self.other, self.bare) if r is not None]


def judge(boots: Boots, expected: Expected) -> tuple[Assertion, ...]:
    """The table, causes before their consequences."""
    return tuple(_judge(boots, expected))


def _judge(boots: Boots, expected: Expected) -> Iterator[Assertion]:
    first, other = boots.first, boots.other
    yield _check(
        assertion_names.KERNEL,
        [f"{r.name}: no kernel message on the console" for r in (first, other) if not r.began],
        "the kernel's first lines are on the console",
    )
    yield _ramdisk(boots)
    yield _modules(boots)
    yield from _roots(first, other)
    facts = first.facts or other.facts
    yield _of(facts, assertion_names.WRITABLE, _writable)
    if expected.size is not None:
        size = expected.size
        yield _of(facts, assertion_names.SIZE, lambda f: _size(f, size))
    yield _fstab(boots, facts)
    yield _dhcp(first, other)
    yield _key(first)
    yield _login(first)
    yield _of(facts, assertion_names.KEY_ONCE, lambda f: _once(f, expected.keys))
    yield _of(facts, assertion_names.KEY_MODES, _modes)
    yield _of(facts, assertion_names.KEY_SELINUX, lambda f: _selinux(f, expected.selinux_type))
    yield _key_by_token(other)
    yield _in_time(first, expected.seconds)
    yield _units(boots)
    yield _no_signs(
        assertion_names.INIT, [r for r in boots.all() if r is not boots.bare], "none on the console"
    )
    yield from _second_boot(first, boots.again)
    yield from _fresh(first, other)
    yield _no_signs(assertion_names.PANIC, boots.all(), "none on the console")
    yield _no_signs(assertion_names.IO, boots.all(), "none on the console")
    yield _power_off([r for r in (first, boots.again, other) if r is not None])
    if boots.with_bare:
        yield _bare(boots.bare)


def _check(name: str, faults: Iterable[str], fine: str) -> Assertion:
    listed = list(faults)
    return Assertion(name, not listed, "; ".join(listed)[:500] if listed else fine)


def _unreached(name: str, why: str = "no boot came that far") -> Assertion:
    return Assertion(name, False, why, reached=False)


def _of(
    facts: probe.Facts | None, name: str, decide: Callable[[probe.Facts], tuple[list[str], str]]
) -> Assertion:
    if facts is None:
        return _unreached(name)
    faults, fine = decide(facts)
    return _check(name, faults, fine)


def _signs(name: str, records: Iterable[Record]) -> list[str]:
    found = {s.line: None for r in records for s in r.signs if s.assertion == name}
    return list(found)[:5]


def _no_signs(name: str, records: list[Record], fine: str) -> Assertion:
    return _check(name, _signs(name, records), fine)


def _ramdisk(boots: Boots) -> Assertion:
    # Kernels also complain of padding behind a good archive: a boot that came up refutes them.
    if boots.first.reached and boots.other.reached:
        return _check(assertion_names.RAMDISK, [], "both boots went through it")
    return _no_signs(assertion_names.RAMDISK, boots.all(), "no complaint on the console")


def _modules(boots: Boots) -> Assertion:
    facts = boots.first.facts or boots.other.facts
    signs = _signs(assertion_names.MODULES, boots.all())
    if signs and not (boots.first.reached and boots.other.reached):
        return _check(assertion_names.MODULES, signs, "")
    if facts is None:
        return _unreached(assertion_names.MODULES)
    versions = facts.module_versions
    if versions and facts.kernel not in versions:
        fault = f"the kernel is {facts.kernel} and /lib/modules has only {', '.join(versions)}"
        return _check(assertion_names.MODULES, [fault[:300]], "")
    if not versions:
        return _check(assertion_names.MODULES, [], "the root filesystem has no modules at all")
    return _check(assertion_names.MODULES, [], f"/lib/modules/{facts.kernel} is there")


def _roots(first: Record, other: Record) -> Iterator[Assertion]:
    """How either came to its root; said once of a disk that has but one firmware to boot by."""
    found = [_root(first), _root(other)]
    if first.title == other.title:
        found = [next((each for each in found if not each.passed), found[0])]
    yield from found


def _root(record: Record) -> Assertion:
    if record.facts is not None:
        roots = [w for w in record.facts.command_line.split() if w.startswith("root=")]
        return _check(record.title, [], f"{record.facts.root_device}, by {' '.join(roots)[:100]}")
    if record.to_banner is not None or record.prompted:
        return _check(record.title, [], "the system on it runs")
    if _signs(assertion_names.FSTAB, [record]) and not _signs(assertion_names.ROOT, [record]):
        return _check(record.title, [], "the init system on it runs")
    if not record.began:
        return _unreached(record.title, "the kernel never started")
    signs = _signs(assertion_names.ROOT, [record])
    return _check(record.title, signs or [record.trouble], "")


def _writable(facts: probe.Facts) -> tuple[list[str], str]:
    fine = "rw" in facts.root_options
    return ([] if fine else [f"mounted {','.join(facts.root_options)[:100]}"]), "rw in /proc/mounts"


def _size(facts: probe.Facts, size: int) -> tuple[list[str], str]:
    faults = []
    if facts.root_bytes != size:
        faults.append(f"the disk has {facts.root_bytes} bytes in the guest, the image {size}")
    if not _LEAST_USABLE * size <= facts.root_usable <= size:
        faults.append(f"the file system offers {facts.root_usable} of {size} bytes")
    return faults, f"{size} bytes, {facts.root_usable} of them usable"


def _fstab(boots: Boots, facts: probe.Facts | None) -> Assertion:
    faults = _signs(assertion_names.FSTAB, boots.all())
    fine = "every entry is mounted, nothing waited for a device"
    if facts is not None:
        unreachable = probe.network_mounts(facts)
        faults = [line for line in faults if not _speaks_of(line, unreachable, facts)]
        faults += [f"not mounted: {line[:100]}" for line in probe.fstab_faults(facts)]
        places = ", ".join(dict.fromkeys(entry.place for entry in unreachable if entry.place))
        fine += f"; the guest has no network for {places[:200]}" if places else ""
    elif not faults:
        return _unreached(assertion_names.FSTAB)
    return _check(assertion_names.FSTAB, faults, fine)


def _speaks_of(line: str, mounts: Iterable[Entry], facts: probe.Facts) -> bool:
    """Whether a console line that something was not mounted is about one of these.

    systemd says the mount point, the unit's name or its description.
    """
    if not re.search(r"[Ff]ailed to mount|Dependency failed for|^mount: ", line):
        return False
    for entry in mounts:
        words = (entry.place, entry.source, entry.line, facts.mount_titles.get(entry.line, ""))
        for word in words:
            if len(word) < 2 or word not in line:
                continue
            if re.search(rf"(?<![\w/-]){re.escape(word)}(?![\w/-])", line):
                return True
    return False


def _dhcp(first: Record, other: Record) -> Assertion:
    for record in (first, other):
        if record.facts is not None and GUEST_ADDRESS in record.facts.addresses:
            return _check(assertion_names.DHCP, [], f"the guest has its lease, {GUEST_ADDRESS}")
        if record.requests or record.to_banner is not None:
            return _check(assertion_names.DHCP, [], "packets came from the address leased")
    if first.prompted or other.prompted:
        return _check(assertion_names.DHCP, ["a login prompt is shown and no packet came"], "")
    return _unreached(assertion_names.DHCP)


def _key(first: Record) -> Assertion:
    if first.facts is not None:
        return _check(assertion_names.KEY, [], f"{len(first.facts.keys)} lines in authorized_keys")
    if first.to_banner is None:
        return _unreached(assertion_names.KEY)
    if not first.key_served:
        asked = len(first.requests)
        return _check(
            assertion_names.KEY,
            [f"the guest asked {asked} times" if asked else "the guest never asked"],
            "",
        )
    return _unreached(
        assertion_names.KEY, "the guest fetched a key; whether it kept it cannot be seen"
    )


def _login(first: Record) -> Assertion:
    if first.to_ssh is not None:
        return _check(assertion_names.LOGIN, [], f"after {first.to_ssh:.1f} s")
    if first.prompted and first.to_banner is None:
        return _check(assertion_names.LOGIN, [first.trouble], "")
    if first.to_banner is None or not first.key_served:
        return _unreached(assertion_names.LOGIN)
    return _check(assertion_names.LOGIN, [first.trouble], "")


def _once(facts: probe.Facts, keys: tuple[Key, ...]) -> tuple[list[str], str]:
    # Type and blob are the key; the comment may be rewritten.
    found = [" ".join(line.split()[:2]) for line in facts.keys if not line.startswith("#")]
    counts = [found.count(" ".join(key.line.split()[:2])) for key in keys]
    faults = [
        f"{key.name} is there {n} times" for key, n in zip(keys, counts, strict=True) if n > 1
    ]
    if not any(counts):
        faults.append("none of the keys offered is in authorized_keys")
    return faults, f"{sum(counts)} of {len(keys)} keys offered, each once"


def _modes(facts: probe.Facts) -> tuple[list[str], str]:
    wanted = {"ssh": ("drwx------", "~/.ssh"), "keys": ("-rw-------", "~/.ssh/authorized_keys")}
    faults = []
    for place, (mode, name) in wanted.items():
        seen, *owner = facts.modes.get(place, ("missing", "", ""))
        if seen != mode:
            faults.append(f"{name} is {seen}, not {mode}")
        if owner[0] != facts.uid:
            faults.append(f"{name} belongs to user {owner[0]}, not {facts.uid}")
    home = facts.modes.get("home", ("missing", "", ""))[0]
    # sshd's StrictModes refuses keys below a home others may write to.
    if "w" in (home[5:6], home[8:9]):
        faults.append(f"the home directory is {home}, writable by others")
    return faults, f"0700 and 0600, user {facts.uid}"


def _selinux(facts: probe.Facts, wanted: str) -> tuple[list[str], str]:
    if not facts.selinux_enforcing:
        return [], "SELinux is not enforcing in this guest"
    context = re.search(r"[\w.-]+:[\w.-]+:([\w.-]+)(?::[\w.,:-]+)?", facts.selinux_listing)
    seen = context.group(1) if context else "none"
    return ([] if seen == wanted else [f"authorized_keys is {seen}, not {wanted}"]), seen


def _key_by_token(other: Record) -> Assertion:
    asked = len(other.requests)
    if other.facts is not None:
        return _check(assertion_names.KEY_BY_TOKEN, [], f"by token, after {asked} requests")
    if other.to_banner is None:
        return _unreached(assertion_names.KEY_BY_TOKEN)
    return _check(assertion_names.KEY_BY_TOKEN, [other.trouble], "")


def _in_time(first: Record, seconds: float) -> Assertion:
    if first.to_ssh is not None:
        return _check(
            assertion_names.IN_TIME, [], f"{first.to_ssh:.1f} s of {seconds:.0f} s allowed"
        )
    if first.late:
        return _check(assertion_names.IN_TIME, [first.trouble], "")
    return _unreached(assertion_names.IN_TIME)


def _units(boots: Boots) -> Assertion:
    seen = [r.facts for r in (boots.first, boots.again, boots.other) if r and r.facts]
    if not seen:
        return _unreached(assertion_names.UNITS)
    if all(facts.failed_units is None for facts in seen):
        return _check(assertion_names.UNITS, [], f"{seen[0].init[:20] or 'init'} has no units")
    # The guest of a check has no network: what mounts from a server must fail there.
    failed = {
        unit: None
        for facts in seen
        for unit in facts.failed_units or ()
        if unit not in {entry.line for entry in _unreachable_units(facts)}
    }
    stuck = [f"the system is {f.system_state}" for f in seen if f.system_state in _UNSETTLED]
    return _check(
        assertion_names.UNITS, [*failed, *stuck[:1]], f"the system is {seen[0].system_state}"
    )


def _unreachable_units(facts: probe.Facts) -> list[Entry]:
    """Failed mount units that need a network, or lie on what needs one."""
    unreachable = {entry.place for entry in probe.network_mounts(facts)}
    return [entry for entry in facts.failed_mounts if entry.place in unreachable]


_UNSETTLED = ("initializing", "starting", "maintenance", "stopping")


def _second_boot(first: Record, again: Record | None) -> Iterator[Assertion]:
    for name in (assertion_names.SAME_KEYS, assertion_names.SAME_HOST_KEYS):
        if first.facts is None or again is None:
            yield _unreached(name)
        elif again.facts is None:
            yield _check(name, [f"the second boot failed: {again.trouble}"], "")
        elif name == assertion_names.SAME_KEYS:
            before, after = first.facts.keys, again.facts.keys
            faults = [] if before == after else [f"{len(before)} lines before, {len(after)} after"]
            yield _check(name, faults, f"the same {len(before)} lines")
        else:
            faults = []
            if not again.host_keys or first.host_keys != again.host_keys:
                faults.append("the host keys differ")
            if first.facts.machine_id != again.facts.machine_id:
                faults.append("the machine-id differs")
            yield _check(name, faults, f"the same {len(again.host_keys)} host keys")


def _fresh(first: Record, other: Record) -> Iterator[Assertion]:
    if first.facts is None or other.facts is None:
        yield _unreached(assertion_names.FRESH_HOST_KEYS)
        yield _unreached(assertion_names.FRESH_MACHINE_ID)
        return
    same = first.host_keys & other.host_keys
    faults = [f"both have the {key.split()[0][:40]} key" for key in sorted(same)]
    if not first.host_keys or not other.host_keys:
        faults.append("ssh-keyscan saw none")
    yield _check(
        assertion_names.FRESH_HOST_KEYS,
        faults,
        f"{len(first.host_keys)} and {len(other.host_keys)} keys",
    )
    ids = first.facts.machine_id, other.facts.machine_id
    if not any(ids):
        yield _check(assertion_names.FRESH_MACHINE_ID, [], "this guest has no machine-id")
    else:
        faults = [] if ids[0] != ids[1] else ["both boots have the same"]
        yield _check(assertion_names.FRESH_MACHINE_ID, faults, "two different ones")


def _power_off(records: list[Record]) -> Assertion:
    pressed = [r for r in records if r.reached]
    if not pressed:
        return _unreached(assertion_names.POWER_OFF)
    faults = []
    for record in pressed:
        if record.power_off is None:
            faults.append(f"{record.name}: the guest ignored the power button")
        elif record.power_off != "guest-shutdown":
            faults.append(f"{record.name}: {record.power_off} in place of a power-off")
        elif record.clean is False:
            faults.append(f"{record.name}: the file system was not unmounted")
    slowest = max(record.power_off_seconds for record in pressed)
    looked = ", file system clean" if all(record.clean for record in pressed) else ""
    return _check(assertion_names.POWER_OFF, faults, f"within {slowest:.1f} s{looked}")


def _bare(bare: Record | None) -> Assertion:
    if bare is None:
        return _unreached(assertion_names.NO_METADATA)
    seconds = f"SSH answers after {bare.to_banner:.1f} s" if bare.to_banner is not None else ""
    return _check(assertion_names.NO_METADATA, [bare.trouble] if bare.trouble else [], seconds)
