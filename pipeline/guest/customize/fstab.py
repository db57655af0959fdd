"""What of a guest's mounts is still true once its root is one flat file system."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache

from pipeline.core.checks import ROOT_LABEL
from pipeline.core.errors import GuestError
from pipeline.core.fstab import Entry, Rests, around, normal, parse
from pipeline.core.system_places import TOP, is_essential
from pipeline.guest.access.paths import below

_REMOVABLE = frozenset({"iso9660", "udf"})
_REPLACED = ("/", "/boot", "/boot/efi", "/efi")
_SCRATCH = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108 # the guest's
"""Where nothing of worth is lost: a directory of the root does as well for what rests on it."""
_PATTERN = re.compile(r"[*?[]")  # unions take their directories by patterns, too
_MOST = 2000  # mounts of one machine
_ON_A_VOLUME = "is on a volume of its own"


@dataclass(frozen=True)
class Fstab:
    """A rewritten fstab. kept, dropped: lines of the old one.

    lost: mount points of other volumes with content that does not become part of the image;
    essential: those of them without which no system runs. reasons: for each of the lost, what
    became of it, to follow its name. gone: all entries that go, units' among them.
    """

    text: str
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    lost: tuple[str, ...]
    essential: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    gone: frozenset[Entry] = frozenset()


def root_fstab(
    text: str,
    filesystem: str,
    *,
    units: Sequence[Entry] = (),
    by_type: Mapping[str, str] | None = None,
    real: Callable[[str], str] = normal,
    links: Mapping[str, str] | None = None,
) -> Fstab:
    """One line for the root by label, and the mounts that depend on no disk of the installation.

    filesystem: the type in the root's line. units: what else is mounted, by units of systemd.
    by_type: mount points that partition types give, and on what they are. real: a guest's path
    without links. links: links of the guest, and where they lead.
    """
    entries = list(parse(text))
    judge = _Judge([*entries, *units], real)
    judge.volumes(by_type or {})
    judge.what_rests_on_them()
    judge.links(links or {})
    kept = tuple(entry.line for entry in entries if entry not in judge.gone)
    lines = [f"LABEL={ROOT_LABEL} / {filesystem} defaults 0 0", *kept]
    return Fstab(
        "\n".join(lines) + "\n",
        kept,
        tuple(entry.line for entry in entries if entry in judge.gone),
        tuple(judge.lost),
        tuple(point for point in judge.lost if is_essential(point) or is_essential(real(point))),
        judge.lost,
        frozenset(judge.gone),
    )


class _Judge:
    """Which entries go, and what is lost with them.

    lost: mount point -> what became of it. places: real mount points of gone volumes, those of
    /boot among them, whose content is no part of the root either.
    """

    def __init__(self, entries: Sequence[Entry], real: Callable[[str], str]) -> None:
        if len(entries) > _MOST:
            raise GuestError(
                "read the guest's mounts",
                why=f"there are {len(entries)} of them, and at most {_MOST} are expected",
                next_step="Look at what the installer wrote to /etc/fstab",
            )
        self.entries, self.real = entries, cache(real)
        self.gone: set[Entry] = set()
        self.lost: dict[str, str] = {}
        self._places: set[str] = set()
        self._kept: Counter[str] = Counter()

    def volumes(self, by_type: Mapping[str, str]) -> None:
        """What lies on volumes goes, and what no mount is."""
        for entry in self.entries:
            if not _stays(entry):
                self.gone.add(entry)
            elif entry.place and not entry.is_swap:
                self._kept[self.real(entry.place)] += 1
            if entry.rests_on is Rests.VOLUME and entry.place and not entry.is_swap:
                self._lose(entry)
        for point, what in by_type.items():
            # A mount that is configured counts (systemd-gpt-auto-generator(8)).
            if not any(self.real(entry.place) == self.real(point) for entry in self._mounts()):
                self.lost[point] = f"is on {what}, by its partition type"
                self._places.add(self.real(point))

    def what_rests_on_them(self) -> None:
        """What is bound to gone volumes, layered over them or in files on them goes with them."""
        resting: dict[str, list[Entry]] = {}
        patterns: list[Entry] = []
        for entry in self._mounts():
            if entry not in self.gone and entry.rests_on is Rests.PLACES:
                for source in entry.places:
                    resting.setdefault(self.real(source), []).append(entry)
                    patterns += [entry] if _PATTERN.search(source) else []
        above: dict[str, list[str]] = {}
        for place in resting:
            for point in around(place):
                above.setdefault(point, []).append(place)
        waiting = sorted(self._places)
        while waiting:
            places = above.get(waiting.pop(), [])
            for entry in (*(e for place in places for e in resting[place]), *patterns):
                waiting += self._go_with_its_source(entry)

    def _go_with_its_source(self, entry: Entry) -> list[str]:
        """Where the entry was mounted, if it has to go now."""
        source = next((s for s in entry.places if self._is_gone(s, entry)), None)
        if entry in self.gone or source is None:
            return []
        self.gone.add(entry)
        place = self.real(entry.place)
        self._kept[place] -= 1
        self.lost.setdefault(entry.place, f"is mounted from {source}, which {_ON_A_VOLUME}")
        self._places.add(place)
        return [place]

    def links(self, links: Mapping[str, str]) -> None:
        """Links of the guest that lead into what is gone, and is not an error by itself."""
        refused = [point for point in self.lost if is_essential(point)]
        for path, target in links.items():
            if any(below(target, point) for point in refused):
                continue
            if self._is_gone(path) and not any(below(path, place) for place in self._places):
                self.lost.setdefault(path, f"is a link to {target}, which {_ON_A_VOLUME}")

    def _lose(self, entry: Entry) -> None:
        if not entry.at_boot and not _is_top(entry.place):
            return
        place = self.real(entry.place)
        if place != "/":
            self._places.add(place)
        removable = _REMOVABLE.intersection(entry.kind.split(","))
        if entry.place not in _REPLACED and place not in _REPLACED and not removable:
            self.lost.setdefault(entry.place, _ON_A_VOLUME)

    def _mounts(self) -> Iterable[Entry]:
        return (entry for entry in self.entries if entry.place and not entry.is_swap)

    def _is_gone(self, source: str, asking: Entry | None = None) -> bool:
        """Whether the innermost mount that holds a path is gone, the one that asks aside."""
        place = self.real(source)
        if place in _SCRATCH:
            return False
        if _PATTERN.search(place):
            return any(fnmatchcase(gone, place) for gone in self._places)
        own = self.real(asking.place) if asking else ""
        for point in around(place):
            if point in self._places:
                return True
            if self._kept[point] > (point == own):
                return False
        return False


def _stays(entry: Entry) -> bool:
    if not entry.kind:
        return False
    if entry.is_swap:
        return entry.source.startswith("/dev/zram")
    if not entry.place or entry.place in _REPLACED:
        return False
    return entry.rests_on not in (Rests.VOLUME, Rests.HYPERVISOR)


def _is_top(place: str) -> bool:
    return place in (*TOP, "/var")
