"""The one disk of a tar archive, where it lies: OVA files, and archives of one raw disk.

Sources: DMTF DSP0243 2.1 (OVF), POSIX pax. Nothing is unpacked: members lie flat in a tar file.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

from pipeline.disk.blocks.source import Source
from pipeline.disk.blocks.volume import Stretch, Volume
from pipeline.disk.foreign.words import broken, refused, shown

_BLOCK = 512
_MOST_MEMBERS, _MOST_XML = 1000, 4 << 20
_FLAT = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_RECORDS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


@dataclass(frozen=True)
class Member:
    """A file in the archive. flat: its bytes lie there as they are."""

    name: str
    start: int
    size: int
    flat: bool


def is_tar(source: Source) -> bool:
    """Whether it begins with the header of a tar member."""
    if source.size < 2 * _BLOCK or source.read(257, 5) != b"ustar":
        return False
    try:
        tarfile.TarInfo.frombuf(source.read(0, _BLOCK), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def disk_in(source: Source) -> Volume:
    """The archive's disk image. InputError where it has none or several, or names other files."""
    members = [member for member in _members(source) if member.size]
    descriptors = [m for m in members if m.name.lower().endswith(".ovf")]
    if descriptors:
        member = _of_ovf(source, descriptors[0], {m.name: m for m in members})
    elif len(members) == 1:
        member = members[0]
    else:
        raise refused(
            source,
            f"it is a tar archive of {len(members)} files and no OVF descriptor",
            "Give the disk image itself",
        )
    if not member.flat:
        raise refused(source, f"{shown(member.name)} does not lie in the archive as it is")
    return Volume(source, [Stretch(member.start, member.size)], f"{source.name}:{member.name}")


def _members(source: Source) -> Iterator[Member]:
    at = count = 0
    while at + _BLOCK <= source.size and count < _MOST_MEMBERS:
        block = source.read(at, _BLOCK)
        if not any(block):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise broken(source, "tar", f"it is cut off or damaged at byte {at}: {error}") from None
        count += 1
        start = at + _BLOCK
        at = start + -(-info.size // _BLOCK) * _BLOCK
        if info.size < 0 or start + info.size > source.size:
            raise broken(source, "tar", f"it is cut off in {shown(info.name)}")
        if info.type in _FLAT or info.type == tarfile.GNUTYPE_SPARSE:
            yield Member(info.name.removeprefix("./"), start, info.size, info.type in _FLAT)
        elif info.type not in (*_RECORDS, tarfile.DIRTYPE):
            raise refused(source, f"{shown(info.name)} in it is a link or a device")
    if count == _MOST_MEMBERS:
        raise refused(source, f"it is an archive of more than {_MOST_MEMBERS} files")


def _of_ovf(source: Source, descriptor: Member, members: dict[str, Member]) -> Member:
    """The member that the descriptor's only disk is in."""
    if descriptor.size > _MOST_XML:
        raise refused(source, f"its descriptor has {descriptor.size} bytes")
    text = source.read(descriptor.start, descriptor.size)
    if b"<!" in text.replace(b"<!--", b""):
        raise refused(source, "its descriptor declares entities")
    try:
        envelope = Xml.fromstring(text)  # noqa: S314 # no entities, and bounded
    except (Xml.ParseError, ValueError) as error:
        raise broken(source, "ova", f"its descriptor is no XML: {error}") from None
    files = {_attribute(e, "id"): e for e in envelope.iter() if _tag(e) == "File"}
    disks = [e for e in envelope.iter() if _tag(e) == "Disk" and _attribute(e, "fileRef")]
    if len(disks) != 1:
        raise refused(
            source,
            f"it has {len(disks)} disks where one is wanted",
            "Unpack it with tar, and give the disk that you want",
        )
    if _attribute(disks[0], "parentRef"):
        raise refused(source, "its disk is a layer over another one")
    file = files.get(_attribute(disks[0], "fileRef"))
    name = _attribute(file, "href") if file is not None else ""
    if name not in members:
        raise refused(
            source, f"its disk lies in a file outside of it, which is not opened: {shown(name)}"
        )
    if file is not None and (_attribute(file, "compression") or _attribute(file, "chunkSize")):
        raise refused(
            source, f"{shown(name)} in it is compressed or cut into parts", "Unpack it with tar"
        )
    return members[name]


def _tag(element: Xml.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _attribute(element: Xml.Element, name: str) -> str:
    return next((v for k, v in element.attrib.items() if k.rpartition("}")[2] == name), "")
