"""Which shared libraries a program needs, read from the files: nothing is executed.

Source: System V ABI, "Object Files" (generic ABI 4.1 and the AMD64 supplement); ld.so(8).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import HostError

_IDENT = b"\x7fELF\x02\x01"  # 64-bit, little-endian
_MACHINE_X86_64 = 62
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 15, 29
_SYSTEM = (  # the AMD64 directories of Debian's and Fedora's dynamic loaders
    Path("/lib/x86_64-linux-gnu"),
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/lib64"),
    Path("/usr/lib64"),
    Path("/lib"),
    Path("/usr/lib"),
)


@dataclass(frozen=True)
class Linkage:
    """What a file asks of the dynamic loader.

    interpreter: the loader's path, empty for libraries and static programs. needed: names of
    libraries. run_path: directories searched first, `$ORIGIN` not yet replaced.
    """

    interpreter: str
    needed: tuple[str, ...]
    run_path: tuple[str, ...]


def linkage(data: bytes) -> Linkage:
    """Parse an x86_64 ELF file; ValueError says what is wrong with it."""
    if not data.startswith(_IDENT):
        raise ValueError("it is not a 64-bit little-endian ELF file")
    try:
        _, machine, _, _, table, _, _, _, width, count, *_ = _HEADER.unpack_from(data)
        if machine != _MACHINE_X86_64:
            raise ValueError(f"it is for machine type {machine}, not for x86_64")
        segments = [_SEGMENT.unpack_from(data, table + n * width) for n in range(count)]
        interpreter = ""
        dynamic: list[tuple[int, int]] = []
        for kind, _, offset, _, _, size, _, _ in segments:
            if kind == _PT_INTERP:
                interpreter = data[offset : offset + size].split(b"\0")[0].decode()
            elif kind == _PT_DYNAMIC:
                for at in range(offset, offset + size, _DYNAMIC.size):
                    tag, value = _DYNAMIC.unpack_from(data, at)
                    if tag == _DT_NULL:
                        break
                    dynamic.append((tag, value))
    except (struct.error, OverflowError) as error:
        raise ValueError(f"it is cut short: {error}") from error
    strings = next((_file_offset(segments, v) for tag, v in dynamic if tag == _DT_STRTAB), 0)

    def text(at: int) -> str:
        end = data.find(b"\0", strings + at)
        return data[strings + at : end].decode()

    paths = [text(value) for tag, value in dynamic if tag in (_DT_RPATH, _DT_RUNPATH)]
    return Linkage(
        interpreter,
        tuple(text(value) for tag, value in dynamic if tag == _DT_NEEDED),
        tuple(part for path in paths for part in path.split(":") if part),
    )


def _file_offset(segments: Sequence[tuple[int, ...]], address: int) -> int:
    for kind, _, offset, start, _, size, _, _ in segments:
        if kind == _PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise ValueError(f"no segment holds address {address:#x}")


def libraries(
    programs: Iterable[Path], directories: Sequence[Path] = _SYSTEM
) -> tuple[dict[str, Path], frozenset[str]]:
    """The libraries by name that programs need, directly or not, and their dynamic loaders.

    HostError when a library is missing or a file is no x86_64 program.
    """
    found: dict[str, Path] = {}
    loaders: set[str] = set()
    queue = list(programs)
    while queue:
        file = queue.pop()
        try:
            link = linkage(file.read_bytes())
        except (OSError, ValueError) as error:
            raise HostError("find the libraries of", file, why=str(error)) from error
        if link.interpreter:
            loaders.add(link.interpreter)
        own = [Path(p.replace("$ORIGIN", str(file.resolve().parent))) for p in link.run_path]
        for name in link.needed:
            if name in found or name in {Path(loader).name for loader in loaders}:
                continue
            library = next((d / name for d in (*own, *directories) if (d / name).is_file()), None)
            if library is None:
                raise HostError(
                    "find the libraries of",
                    file,
                    why=f"{name} is in none of the system's library directories",
                    next_step="Reinstall the package the program came from",
                )
            found[name] = library
            queue.append(library)
    return found, frozenset(loaders)
