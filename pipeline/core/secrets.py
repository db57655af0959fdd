"""Strings that are never shown, and where they come from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit

_CLOUDS = ("OS_", "AWS_", "EC2_", "S3_")


_SECRETS = ("PASSWORD", "SECRET", "TOKEN", "SECRET_KEY", "ACCESS_KEY")


class Secrets:
    """Strings that must never be shown; `mask` replaces each by asterisks."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def add(self, value: str) -> None:
        """Remember `value`; shorter than four characters it would mask ordinary words."""
        if len(value) >= 4:
            self._values.add(value)

    def mask(self, text: str) -> str:
        """`text` without the secrets, the longest first so that none is left in part."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, "****")
        return text


def environment_secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Values that must not be shown: credentials of clouds, passwords in URLs such as a proxy's.

    Other programs' secrets are not looked for: a database's password may be an ordinary word.
    """
    for name, value in environ.items():
        if name.startswith(_CLOUDS) and name.endswith(_SECRETS):
            yield value
        elif "://" in value and "@" in value:
            with contextlib.suppress(ValueError):
                word = urlsplit(value).password
                if word:
                    yield word
                    yield unquote(word)
