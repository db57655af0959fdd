"""SELinux labels by the guest's own policy, told by this host's libselinux: no guest program runs.

The rules are Perl-compatible expressions out of a hostile guest. So libselinux's programs work on
them in a process of their own with bounds of time, memory and file size: sefcontext_compile(8)
refuses what is no policy, matchpathcon(8) tells the labels. Without the first, the second answers
"<<none>>" and status 0 for a rule that does not compile.
Source of the rules: file_contexts(5), selabel_file(5).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.core.errors import GuestError, ProgramError
from pipeline.disk.filesystems.status import Kind
from pipeline.guest.access.protocol import Guest
from pipeline.host.context import Tools
from pipeline.host.files import write_scratch
from pipeline.host.programs import Completed, Runner
from pipeline.host.requirements import Requirement, declare, require

REQUIRES = declare(
    Requirement(
        "customize",
        "the labels of SELinux guests",
        programs={"matchpathcon": "selinux-utils", "sefcontext_compile": "selinux-utils"},
        unchecked={"prlimit": "util-linux"},
        needed=False,
    )
)

_CONFIG = "/etc/selinux/config"
_MAX_FILE = 8 << 20  # bytes; Fedora's file_contexts has 400 KB
_CONTEXTS = ("", ".homedirs", ".local")
_SUBSTITUTIONS = (".subs_dist", ".subs")
_KINDS: Mapping[Kind, str] = {"file": "file", "directory": "dir", "symlink": "lnk_file"}
_TYPES = frozenset({"--", "-d", "-l", "-b", "-c", "-p", "-s"})
# What is said where no rule matches, and where matching one came to PCRE2's limit. A rule for no
# label gets another word, so that it can be told from these.
_UNTOLD, _NO_LABEL = b"<<none>>", b"no-label"
_EVERYTHING = "/.*"  # the rule for all paths, with which every policy of a distribution begins
# A policy of 5,000 rules takes 0.1 s, 7 MB of memory and 7 MB of compiled rules.
_SECONDS = 60
_BOUNDS = ("prlimit", "--as=536870912", "--fsize=67108864", "--cpu=20", "--core=0", "--")


class PolicyError(ValueError):
    """A policy that libselinux refuses, or that takes too much time or memory."""


class Policy:
    """The file contexts of one policy."""

    def __init__(self, files: Mapping[str, str], directory: Path, run: Runner) -> None:
        """Compile the rules.

        files: texts by what follows "file_contexts" in the file's name: "", ".homedirs",
        ".local", ".subs_dist", ".subs". directory: this object's own, what was in it is deleted.
        PolicyError when libselinux refuses them.
        """
        self._run = run
        self._file = directory / "file_contexts"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for suffix in _SUBSTITUTIONS:
            if files.get(suffix):
                write_scratch(Path(f"{self._file}{suffix}"), files[suffix])
        self._complete = False
        for suffix in _CONTEXTS:
            rules = list(_rules(files.get(suffix, "")))
            self._complete |= any(rule[:1] == [_EVERYTHING] and len(rule) == 2 for rule in rules)
            if any(rules) or not suffix:
                path = Path(f"{self._file}{suffix}")
                write_scratch(path, "".join("\t".join(rule) + "\n" for rule in rules))
                self._bounded("sefcontext_compile", "-o", f"{path}.bin", path)

    def labels(self, paths: Mapping[str, Kind]) -> dict[str, bytes | None]:
        """The labels of real paths, NUL-terminated as the kernel keeps them; None for none.

        PolicyError when they cannot be told.
        """
        found: dict[str, bytes | None] = {}
        for kind in dict.fromkeys(paths.values()):
            wanted = [path for path, each in paths.items() if each == kind]
            done = self._bounded(
                "matchpathcon", "-N", "-n", "-m", _KINDS[kind], "-f", self._file, *wanted
            )
            told = done.stdout.splitlines()
            if len(told) != len(wanted):
                raise PolicyError(f"matchpathcon told {len(told)} labels of {len(wanted)}")
            for path, label in zip(wanted, told, strict=True):
                if label == _UNTOLD and self._complete:
                    raise PolicyError(f"a rule takes too long for {path}")
                found[path] = None if label in (_UNTOLD, _NO_LABEL) else label + b"\0"
        return found

    def _bounded(self, program: str, *words: str | Path) -> Completed:
        require(program)
        try:
            return self._run.run([*_BOUNDS, program, *words], timeout=_SECONDS)
        except ProgramError as error:
            # The directory is this build's own and tells nothing.
            why = error.why.replace(f"{self._file.parent}/", "")
            raise PolicyError(f"{program}: {why}") from None


def load_policy(guest: Guest, tools: Tools) -> Policy | None:
    """The policy that the guest's configuration names; None for a guest without SELinux.

    PolicyError when there is a policy that cannot be read.
    """
    try:
        files = _policy_files(guest)
    except (GuestError, UnicodeDecodeError) as error:
        raise PolicyError(str(error)) from error
    return Policy(files, tools.scratch / "selinux", tools.run) if files else None


def _policy_files(guest: Guest) -> dict[str, str]:
    """The texts that `Policy` takes; none for a guest without SELinux."""
    if not guest.exists(_CONFIG):
        return {}
    name = ""
    for line in guest.read(_CONFIG, _MAX_FILE).decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "SELINUXTYPE":
            name = value.strip()
    if not name or "/" in name or name in (".", ".."):
        return {}
    directory = f"/etc/selinux/{name}/contexts/files"
    if not guest.exists(f"{directory}/file_contexts"):
        return {}
    paths = {s: f"{directory}/file_contexts{s}" for s in (*_CONTEXTS, *_SUBSTITUTIONS)}
    return {
        suffix: guest.read(path, _MAX_FILE).decode()
        for suffix, path in paths.items()
        if guest.exists(path)
    }


def _rules(text: str) -> Iterator[list[str]]:
    """The fields of each line, none of one that is no rule: libselinux refuses a file for it."""
    for line in text.split("\n"):
        fields = line.split()
        comment = bool(fields) and fields[0].startswith("#")
        typed = len(fields) == 3 and fields[1] in _TYPES
        if comment or not (typed or len(fields) == 2):
            yield []
            continue
        nothing = fields[-1].encode() == _UNTOLD
        yield [*fields[:-1], _NO_LABEL.decode() if nothing else fields[-1]]
