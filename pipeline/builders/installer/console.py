"""The guest's console: followed from its first byte, made safe to show, kept with the build."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

MAX_BYTES = 64 << 20
"""A guest that writes more than this to its console is broken; a Debian install writes 1 MiB."""
_MAX_LINE = 4096
_CHUNK = 1 << 20
# ECMA-48: CSI sequences, OSC strings, and two-character escapes such as charset switches.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/][0-~]|[0-~])"
)
# A line also ends where the cursor is put somewhere else (CUP, HVP), as screen(1) does.
_LINE_END = re.compile(r"\r\n|\r(?!$)|\n|\x1b\[\d*(?:;\d*)?[Hf]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """`text` without escape sequences and control characters; a bare return ends a line."""
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", text)


def _decoded(line: str) -> str:
    return line.encode("latin-1").decode(errors="replace")


class Console:
    """Reads what qemu appends to `raw` and writes it, plain and masked, to `log`.

    mask: replaces secrets in a line. Lines longer than 4 KiB are masked, then split where no
    secret of up to `overlap` characters is cut.
    """

    def __init__(
        self, raw: Path, log: Path, mask: Callable[[str], str], overlap: int = 256
    ) -> None:
        self.log = log
        self.size = 0  # bytes read so far
        self._raw = raw
        self._mask = mask
        self._overlap = overlap
        self._pending = ""
        self._reader = None
        self._writer = log.open("w")

    @property
    def flooded(self) -> bool:
        """Whether the guest wrote more than MAX_BYTES; what lies beyond is not read."""
        return self.size >= MAX_BYTES

    @property
    def unfinished(self) -> str:
        """The line that has no end yet, plain and *not* masked."""
        return plain(_decoded(self._pending))

    def poll(self) -> list[str]:
        """New whole lines, plain and *not* masked: the nonce is in them."""
        return self._lines(self._read(), last=False)

    def finish(self) -> list[str]:
        """The remaining lines, the last perhaps without its end."""
        return self._lines(self._read(), last=True)

    def _read(self) -> str:
        data = bytearray()
        with contextlib.suppress(FileNotFoundError), self._raw.open("rb") as stream:
            stream.seek(self.size)
            while not self.flooded and (chunk := stream.read(min(_CHUNK, MAX_BYTES - self.size))):
                data += chunk
                self.size += len(chunk)
        return data.decode("latin-1")  # decoded by line below: a chunk may end within a character

    def _lines(self, text: str, last: bool) -> list[str]:
        self._pending += text
        *whole, self._pending = _LINE_END.split(self._pending)
        if last and self._pending:
            whole.append(self._pending)
            self._pending = ""
        while len(self._pending) > _MAX_LINE:
            # Masked first, only its end can still hold the beginning of a secret.
            masked = self._mask(_decoded(self._pending)).encode().decode("latin-1")
            cut = max(len(masked) - self._overlap, 1)
            whole.append(masked[:cut])
            self._pending = masked[cut:]
        lines = [plain(_decoded(line)) for line in whole]
        for line in lines:
            self._writer.write(self._mask(line) + "\n")
        if lines:
            self._writer.flush()
        return lines

    def close(self) -> None:
        """Close the log."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
