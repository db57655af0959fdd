"""Passwords in answer files: which entries are hashes or locks, and where one is in clear text.

Sources: crypt(5) and shadow(5) for the forms of entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pipeline.builders.installer.answer_text import SCRIPTS, Dialect, script_lines

PLACEHOLDER = "image-pipeline-secret"
"""Stands for a value from the environment while the rest of the text is looked through."""

_HASH = re.compile(
    r"\$[0-9a-z]+\$[^\s:]+"  # modular: $1$, $5$, $6$, $y$ and others
    r"|_[./0-9A-Za-z]{19}"  # extended DES
    r"|[./0-9A-Za-z]{13}"  # DES
)
_LOCK = re.compile(r"[!*][^\s:]*|[A-Za-z][A-Za-z!*_.-]*")
_URL = re.compile(r"(?<=://)[^/@\s:'\"]*:([^/@\s'\"]+)@")
_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)")
_IN_SCRIPTS = (
    _URL,
    _KEY,
    re.compile(
        r"\b(?:curl|wget)\b.*?\s(?:-u|--user|--proxy-user)[= ]?['\"]?[^\s:'\"]+:([^\s'\"]+)"
    ),
    re.compile(
        r"--(?:http-|proxy-|ftp-)?(?:password|passphrase|activation-?key|token)"
        r"[= ]['\"]?([^\s'\"-][^\s'\"]*)"
    ),
    re.compile(r"\becho\s+(?:-n\s+)?['\"]?[\w.-]+:([^\s'\"|]+)['\"]?\s*\|\s*(?:\S+\s+)?chpasswd"),
    re.compile(
        r"\becho\s+(?:-n\s+)?['\"]?([^\s'\"|]+)['\"]?\s*\|\s*\S*passwd\s+(?:\S+\s+)*--stdin"
    ),
)
REMEDY = 'name a variable in the recipe, NAME = { environment = "NAME" }, and write {{NAME}}'
"""What to do about a secret in clear text."""


def placeholder(name: str) -> str:
    """The placeholder for the value of one variable."""
    return f"{PLACEHOLDER}-{name}-"


def is_hash(entry: str) -> bool:
    """Whether it has the form of a hash as crypt(5) writes it."""
    return _HASH.fullmatch(entry) is not None


def is_hash_or_lock(entry: str) -> bool:
    """Whether nobody can read a password out of it: a hash, or a word that no hash can be.

    "!", "*", "locked" or "nope" lock an account. A word with a digit in it that has no form of a
    hash is rather a password whose hashing was forgotten.
    """
    return is_hash(entry) or _LOCK.fullmatch(entry) is not None


def in_url(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of every password in clear text in a URL of the text."""
    yield from _spans(_URL, text)


def in_script(line: str) -> Iterator[tuple[int, int]]:
    """Begin and end of what looks like a password in clear text in a line of a shell script."""
    if not line.lstrip().startswith("#"):
        for pattern in _IN_SCRIPTS:
            yield from _spans(pattern, line)


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text):
        if is_clear(match[1]) and not match[1].startswith(("$", "{", "`")):
            yield match.span(1)


def is_clear(value: str) -> bool:
    """Whether it is a value that is written out in the file."""
    return bool(value) and PLACEHOLDER not in value


def hide_clear_text(text: str, dialect: Dialect, instead: str) -> str:
    """The answer file with `instead` for what looks like a password in a URL or a script."""
    lines = text.split("\n")
    for number, spans in _clear_spans(lines, dialect):
        line = lines[number - 1]
        for begin, end in sorted(spans, reverse=True):
            line = line[:begin] + instead + line[end:]
        lines[number - 1] = line
    return "\n".join(lines)


def clear_words(text: str, dialect: Dialect) -> tuple[str, ...]:
    """The words that `hide_clear_text` would hide."""
    lines = text.split("\n")
    return tuple(
        lines[number - 1][begin:end]
        for number, spans in _clear_spans(lines, dialect)
        for begin, end in spans
    )


def _clear_spans(
    lines: Sequence[str], dialect: Dialect
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Lines by number from 1, each with spans that do not overlap."""
    scripts = dict(script_lines(lines, SCRIPTS)) if dialect == "kickstart" else None
    key = ends = False
    for number, line in enumerate(lines, 1):
        key = bool(_KEY.search(line)) or (key and not ends)
        ends = "-----END" in line
        spans = {(0, len(line))} if key and line else set(in_url(line))
        if scripts is None or number in scripts:
            spans |= set(in_script(line))
        apart: list[tuple[int, int]] = []
        for span in sorted(spans):
            if not apart or span[0] >= apart[-1][1]:
                apart.append(span)
        if apart:
            yield number, apart
