"""A kickstart as pykickstart reads it for one release: its commands, its data, its complaints.

pykickstart prints complaints on standard error, over several lines; here they are collected, each
with its line. Source: pykickstart 3, "Kickstart Syntax Reference" and its parser's documentation.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pykickstart.errors import KickstartError
from pykickstart.parser import STATE_COMMANDS, KickstartParser
from pykickstart.version import makeVersion, versionMap

from pipeline.builders.installer.answer_text import Finding, script_lines
from pipeline.core.text import did_you_mean

STORAGE = frozenset(
    {"autopart", "btrfs", "clearpart", "ignoredisk", "logvol", "mount", "part", "partition"}
    | {"raid", "reqpart", "volgroup"}
)
"""Commands that lay out disks."""


@dataclass(frozen=True)
class Command:
    """One command with its options. line: of the text with its includes in place."""

    line: int
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The command's own word."""
        return self.words[0]

    def options(self) -> list[tuple[str, str]]:
        """Its options, each `--name` with the value after "=" or in the next word, "" for none."""
        found = []
        for at, word in enumerate(self.words[1:], 1):
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                following = self.words[at + 1] if at + 1 < len(self.words) else ""
                if not equals and not following.startswith("--"):
                    value = following
                found.append((name, value))
        return found

    def has(self, option: str) -> bool:
        """Whether the option is there, also where only the beginning of its name is written."""
        return any(len(name) >= 4 and option.startswith(name) for name, _ in self.options())


@dataclass
class Kickstart:
    """What was read. handler: pykickstart's, whose attributes depend on the release.

    files: the file of each line. failed: names of commands with a complaint, and "" where reading
    ended early. dynamic: whether a %pre writes commands during the install, which nobody knows yet.
    """

    handler: Any
    lines: tuple[str, ...]
    files: tuple[str, ...] = ()
    commands: list[Command] = field(default_factory=list)
    complaints: list[Finding] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    dynamic: bool = False

    def named(self, *names: str) -> list[Command]:
        """The commands of these names, in order."""
        return [command for command in self.commands if command.name in names]

    def data(self, command: str, attribute: str) -> Any:
        """An attribute of a command's data; None where this release does not know it."""
        return getattr(getattr(self.handler, command, None), attribute, None)

    def same_file(self, one: int, other: int) -> bool:
        """Whether two lines stand in one file of the user's."""
        return not self.files or self.files[one - 1] == self.files[other - 1]

    def scripts(self, *sections: str) -> list[tuple[int, str]]:
        """Number and text of every line of these sections' scripts."""
        return list(script_lines(self.lines, sections))


_HINTS = {
    "expected for the rootpw": "; to lock root write rootpw --lock --iscrypted *",
    "Btrfs file system": "; write ext4 or xfs",
    "unrecognized arguments: yes": "; write zerombr alone, if it is that",
}


def release_fault(release: str) -> str:
    """What is wrong with the name of a release, or "" if pykickstart knows it."""
    known = [name for name in versionMap if name != "DEVEL"]
    if release in known:
        return ""
    return f"pykickstart knows no release {release!r}{did_you_mean(release, known)}"


def read(text: str, release: str, files: Iterable[str] = ()) -> Kickstart:
    """The kickstart as it is understood for a release that `release_fault` has nothing against.

    files: where each of its lines comes from; none where all come from one file.
    """
    kickstart = Kickstart(makeVersion(release), tuple(text.splitlines()), tuple(files))
    parser = _Parser(kickstart)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated is not wrong
        try:
            parser.readKickstartFromString(text)
        except Exception as error:  # the parser lets any exception through
            kickstart.failed.add("")
            kickstart.complaints.append(Finding(parser.line_of(error), parser.words_of(error)))
    return kickstart


class _Parser(KickstartParser):  # type: ignore[misc] # pykickstart ships no types
    """pykickstart's parser, keeping what it sees."""

    def __init__(self, kickstart: Kickstart) -> None:
        super().__init__(kickstart.handler, followIncludes=False, errorsAreFatal=True)
        self._kickstart = kickstart
        self._command = ""
        self._at = 0

    def handleCommand(self, lineno: int, args: list[str]) -> Any:
        """Remember the command, and let the handler have it."""
        self._command, self._at = args[0], lineno
        self._kickstart.commands.append(Command(lineno, tuple(args)))
        if args[0] not in self.handler.commands:
            near = did_you_mean(args[0], self.handler.commands)
            raise KickstartError(f"Unknown command: {args[0]}{near}", lineno=lineno)
        return super().handleCommand(lineno, args)

    def _tryFunc(self, fn: Callable[[], Any]) -> None:
        try:
            fn()
        except Exception as error:
            inside = self._state != STATE_COMMANDS
            self._kickstart.failed.add(self._state if inside else self._command)
            text = self.words_of(error)
            text += next((hint for words, hint in _HINTS.items() if words in text), "")
            self._kickstart.complaints.append(Finding(self.line_of(error), text))

    def _handleInclude(self, f: str) -> None:
        # Only files that %pre writes are left by now; a list of packages decides little.
        if self._state == STATE_COMMANDS:
            self._kickstart.dynamic = True
        super()._handleInclude(f)

    def line_of(self, error: Exception) -> int:
        """Where an error happened; those of shlex do not say."""
        line = getattr(error, "lineno", None)
        if isinstance(line, int) and line > 0:
            return line
        for number, text in enumerate(self._kickstart.lines[self._at :], self._at + 1):
            if self._line.rstrip("\n") == text:
                return number
        return self._at

    @staticmethod
    def words_of(error: Exception) -> str:
        """The message on one line, without the frame that repeats the line's number."""
        text = getattr(error, "message", "") or str(error) or type(error).__name__
        return re.sub(r"\s+", " ", str(text)).strip()
