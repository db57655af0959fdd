"""Volume groups: linear logical volumes as stretches of the disk, the rest refused by name.

Metadata fields are those that lvm2 writes (lib/format_text/export.c, `pvck --dump metadata`);
lvmraid(7), lvmthin(7), lvmcache(7) and lvmvdo(7) describe the types that are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.lvm import text
from pipeline.disk.blocks.lvm.label import SECTOR, Metadata, PhysicalVolume
from pipeline.disk.blocks.lvm.text import MetadataError
from pipeline.disk.blocks.source import Source
from pipeline.disk.blocks.volume import Stretch, Volume, overlap

_MAX_EXTENTS = 1 << 32  # lvm2's own limit of extents in a volume


@dataclass(frozen=True)
class LogicalVolume:
    """A logical volume that a user can see.

    partitions: names of the devices it lies on. stretches: its bytes on the disk, in order;
    empty when `refusal` says why it cannot be read. uuid: the group's and its own, one behind the
    other without hyphens, as device-mapper has it. size: its bytes, whatever it lies on.
    """

    group: str
    name: str
    partitions: tuple[str, ...]
    stretches: tuple[Stretch, ...]
    refusal: str = ""
    uuid: str = ""
    size: int = 0

    @property
    def path(self) -> str:
        """VG/LV."""
        return f"{self.group}/{self.name}"

    def volume(self, disk: Source) -> Volume:
        """The volume's bytes."""
        return Volume(disk, self.stretches, f"LV {self.path} of {disk.name}")


@dataclass(frozen=True)
class Placed:
    """A physical volume and where it lies on the disk."""

    pv: PhysicalVolume
    stretch: Stretch
    partition: str


@dataclass(frozen=True)
class Groups:
    """What the physical volumes of a disk hold."""

    volumes: tuple[LogicalVolume, ...]
    notes: tuple[str, ...]


def read_groups(placed: Sequence[Placed], disk: Source) -> Groups:
    """The logical volumes of all volume groups; DiskError for groups that contradict themselves.

    Of several copies of the metadata the newest (highest seqno) counts.
    """
    notes = [f"One copy of the LVM metadata is damaged ({d})" for p in placed for d in p.pv.damage]
    by_uuid: dict[str, Placed] = {}
    for item in placed:
        if item.pv.uuid in by_uuid:
            raise _broken(disk, f"two physical volumes have the UUID {item.pv.uuid}")
        by_uuid[item.pv.uuid] = item
    copies = sorted(
        (copy for item in placed for copy in item.pv.copies),
        key=lambda copy: (copy.group_id, copy.seqno),
    )
    newest = [list(same)[-1] for _, same in groupby(copies, key=lambda copy: copy.group_id)]
    if not newest and any(item.pv.damage for item in placed):
        raise _broken(disk, "; ".join(d for item in placed for d in item.pv.damage))
    names = [metadata.group for metadata in newest]
    for name in names:
        if names.count(name) > 1:
            raise _broken(disk, f"two volume groups are called {name}")
    volumes: list[LogicalVolume] = []
    for metadata in newest:
        try:
            volumes += _volumes(metadata, by_uuid)
        except MetadataError as error:
            raise _broken(disk, f"volume group {metadata.group}: {error}") from None
    return Groups(tuple(volumes), tuple(notes))


def _volumes(metadata: Metadata, by_uuid: Mapping[str, Placed]) -> list[LogicalVolume]:
    section = metadata.section
    extent = text.number(section, "extent_size") * SECTOR
    if not extent:
        raise MetadataError("its extents have no size")
    devices = {
        name: _Device(name, pv, by_uuid.get(text.string(pv, "id").replace("-", "")))
        for name, pv in text.subsections(section, "physical_volumes").items()
    }
    logical = text.subsections(section, "logical_volumes")
    merging = {
        text.string(segment, "origin")
        for volume in logical.values()
        for segment in text.subsections({"": volume}, "").values()
        if segment.get("type") == "snapshot" and "merging_store" in segment
    }
    found: list[LogicalVolume] = []
    claimed: list[Stretch] = []
    for name, volume in logical.items():
        try:
            stretches = tuple(_stretches(volume, extent, devices))
            refusal = "it is the target of a snapshot merge" if name in merging else ""
        except _RefusedError as error:
            stretches, refusal = (), str(error)
        claimed += stretches
        if "VISIBLE" in text.strings(volume, "status"):
            places = tuple(dict.fromkeys(_places(volume, devices)))
            shown = () if refusal else stretches
            uuid = "".join(_identity(part) for part in (section, volume))
            size = sum(text.number(s, "extent_count") for s in _segments(volume)) * extent
            found.append(LogicalVolume(metadata.group, name, places, shown, refusal, uuid, size))
    clash = overlap(claimed)
    if clash:
        raise MetadataError(f"two of its volumes share byte {clash[1].start} of the disk")
    return found


def _identity(section: Mapping[str, text.Value]) -> str:
    """The UUID of a group or volume without its hyphens; "" if it has none."""
    value = section.get("id")
    return value.replace("-", "") if isinstance(value, str) else ""


class _RefusedError(Exception):
    """A volume that is whole but of a kind that is not read; the words say which."""


class _Device:
    """A physical volume as its group sees it."""

    def __init__(self, name: str, section: text.Section, placed: Placed | None) -> None:
        self.name = name
        self.placed = placed
        self.hint = str(section.get("device", "unknown"))
        self._start = text.number(section, "pe_start") * SECTOR
        self._count = text.number(section, "pe_count")

    def stretch(self, first: int, count: int, extent: int) -> Stretch:
        """Where `count` extents from `first` lie on the disk."""
        if self.placed is None:
            raise _RefusedError(
                f"a part of it lies on a physical volume that is not on this disk ({self.hint})"
            )
        start = self._start + first * extent
        if first + count > self._count:
            raise MetadataError(f"a segment ends outside of {self.name}")
        if start + count * extent > self.placed.stretch.length:
            raise _RefusedError(
                f"a part of it lies beyond the end of partition {self.placed.partition}"
            )
        return Stretch(self.placed.stretch.start + start, count * extent)


def _segments(volume: text.Section) -> list[text.Section]:
    """A volume's segments in order; MetadataError unless they follow each other without a gap."""
    count = text.number(volume, "segment_count")
    segments = [s for n, s in volume.items() if n.startswith("segment") and isinstance(s, dict)]
    if count != len(segments):
        raise MetadataError("a volume's segments are not all there")
    segments.sort(key=lambda segment: text.number(segment, "start_extent"))
    expected = 0
    for segment in segments:
        if text.number(segment, "start_extent") != expected:
            raise MetadataError("a volume's segments overlap or leave a gap")
        length = text.number(segment, "extent_count")
        expected += length
        if not length or expected > _MAX_EXTENTS:
            raise MetadataError("a volume's segment has an impossible length")
    return segments


def _stretches(
    volume: text.Section, extent: int, devices: Mapping[str, _Device]
) -> Iterator[Stretch]:
    for segment in _segments(volume):
        kind = text.string(segment, "type").partition("+")[0]
        stripes = text.number(segment, "stripe_count") if kind == "striped" else 0
        if stripes > 1:
            raise _RefusedError(f"it is striped over {stripes} physical volumes")
        if stripes != 1:
            raise _RefusedError(f"it is of the LVM type {kind}")
        match segment.get("stripes"):
            case [str(name), int(first)] if name in devices and first >= 0:
                length = text.number(segment, "extent_count")
                yield devices[name].stretch(first, length, extent)
            case [str(name), int()] if name not in devices:
                raise _RefusedError(f"it is built on the internal volume {name}")
            case _:
                raise MetadataError("a segment does not say where it lies")
    if "PVMOVE" in text.strings(volume, "status"):
        raise _RefusedError("it is being moved by pvmove")


def _places(volume: text.Section, devices: Mapping[str, _Device]) -> Iterator[str]:
    """Partitions that a volume's segments name."""
    for segment in _segments(volume):
        stripes = segment.get("stripes", [])
        for name in stripes if isinstance(stripes, list) else []:
            device = devices.get(name) if isinstance(name, str) else None
            if device and device.placed:
                yield device.placed.partition


def _broken(disk: Source, why: str) -> DiskError:
    return DiskError(
        "read the LVM volume groups of",
        disk.name,
        why=why,
        next_step="Look at them with `pvck --dump metadata` and `vgck`",
    )
