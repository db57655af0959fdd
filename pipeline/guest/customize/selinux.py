"""SELinux labels by the guest's own policy, computed here: no guest program is run.

Source of the rules: file_contexts(5), selabel_file(5), and libselinux's order of precedence:
specifications without special characters win over those with, later ones over earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.core.errors import GuestError
from pipeline.disk.filesystems.status import Kind
from pipeline.guest.access.protocol import Guest
from pipeline.guest.customize.selinux_regex import PatternError, fixed_prefix, matches

ATTRIBUTE = "security.selinux"
_CONFIG = "/etc/selinux/config"
_MAX_FILE = 8 << 20  # bytes; Fedora's file_contexts has 400 KB
_MAX_SPECIFICATIONS = 100_000
_SPECIAL = set(".^$?*+|[({")
_KINDS: dict[str, Kind | None] = {
    "--": "file",
    "-d": "directory",
    "-l": "symlink",
    "-b": "other",
    "-c": "other",
    "-p": "other",
    "-s": "other",
}
_NONE = "<<none>>"


@dataclass(frozen=True)
class _Specification:
    pattern: str
    prefix: str
    exact: bool
    kind: Kind | None
    context: str


class Policy:
    """The file contexts of one policy."""

    def __init__(
        self, contexts: Iterable[str], substitutions: Iterable[str] = (), local: Iterable[str] = ()
    ) -> None:
        """contexts: texts of file_contexts, .homedirs and .local, in this order.

        substitutions, local: texts of file_contexts.subs_dist and .subs.
        """
        found = [spec for text in contexts for spec in _specifications(text)]
        if len(found) > _MAX_SPECIFICATIONS:
            raise PatternError("the policy has too many file contexts")
        # The last match counts, and exact paths count most: look from the end of this order.
        self._specifications = [s for s in found if not s.exact] + [s for s in found if s.exact]
        self._substitutions = [_pairs(text) for text in (*local, *substitutions)]

    def label(self, path: str, kind: Kind) -> bytes | None:
        """The label of a real path, NUL-terminated as the kernel keeps it; None for none.

        PatternError when the policy cannot be read well enough to tell.
        """
        for pairs in self._substitutions:
            for source, target in pairs:
                if path == source or path.startswith(source + "/"):
                    path = target + path.removeprefix(source)
                    break
        for spec in reversed(self._specifications):
            if spec.kind not in (None, kind) or not path.startswith(spec.prefix):
                continue
            if path == spec.pattern if spec.exact else matches(spec.pattern, path):
                return None if spec.context == _NONE else spec.context.encode() + b"\0"
        return None


def load_policy(guest: Guest) -> Policy | None:
    """The policy that the guest's configuration names; None for a guest without SELinux.

    PatternError when there is a policy that cannot be read.
    """
    if not guest.exists(_CONFIG):
        return None
    name = ""
    for line in guest.read(_CONFIG, _MAX_FILE).decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "SELINUXTYPE":
            name = value.strip()
    if not name or "/" in name or name in (".", ".."):
        return None
    directory = f"/etc/selinux/{name}/contexts/files"
    if not guest.exists(f"{directory}/file_contexts"):
        return None

    def text(suffix: str) -> str:
        path = f"{directory}/file_contexts{suffix}"
        try:
            return guest.read(path, _MAX_FILE).decode() if guest.exists(path) else ""
        except (GuestError, UnicodeDecodeError) as error:
            raise PatternError(f"{path}: {error}") from error

    return Policy(
        [text(""), text(".homedirs"), text(".local")], [text(".subs_dist")], [text(".subs")]
    )


def _specifications(text: str) -> Iterable[_Specification]:
    for line in text.splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("#") or len(fields) not in (2, 3):
            continue
        pattern, context = fields[0], fields[-1]
        kind = _KINDS.get(fields[1]) if len(fields) == 3 else None
        if len(fields) == 3 and kind is None:
            continue
        exact, plain = _plain(pattern)
        prefix = plain if exact else fixed_prefix(pattern)
        yield _Specification(plain if exact else pattern, prefix, exact, kind, context)


def _plain(pattern: str) -> tuple[bool, str]:
    """Whether the pattern is one path, and that path without its escapes."""
    plain, escaped = "", False
    for symbol in pattern:
        if not escaped and symbol in _SPECIAL:
            return False, ""
        escaped = not escaped and symbol == "\\"
        plain += "" if escaped else symbol
    return True, plain


def _pairs(text: str) -> list[tuple[str, str]]:
    """(path, path it is labelled like) of a substitutions file; later lines are asked first."""
    pairs = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 2 and not fields[0].startswith("#"):
            pairs.append((fields[0].rstrip("/"), fields[1].rstrip("/")))
    return pairs[::-1]
