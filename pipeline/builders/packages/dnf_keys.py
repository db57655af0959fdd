"""The OpenPGP keys of RPM repositories: which of them count today, and what they have signed.

gpg tells what a key file holds, and what of it has expired or was revoked; gpgv checks the
signature of repomd.xml; rpmkeys checks packages by the keys that gpg let through, since rpm 4.18
itself takes a key for good after its end. No keyring of the user or the host is read.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.core.errors import InputError, ProgramError
from pipeline.host.files import write_whole
from pipeline.host.locks import exclusive
from pipeline.host.programs import Runner

_SECONDS = 60
_PER_PACKAGE = 5.0  # seconds of rpmkeys; a package of 100 MB takes one
_LARGEST = 1 << 20  # bytes of a key file; Fedora's has 10 KB
_NO_GOOD = {"e": "has expired", "r": "was revoked", "i": "is invalid", "d": "is disabled"}
_SIGNED = re.compile(r"key ID ([0-9a-f]+): (OK|NOKEY|BAD|NOTTRUSTED)")


@dataclass(frozen=True)
class Key:
    """A primary key. bad: why it does not count, as a phrase after "it"; "" where it does."""

    fingerprint: str
    bad: str


def parse_keys(listing: str) -> tuple[Key, ...]:
    """The primary keys of `gpg --with-colons --show-keys`.

    Source: GnuPG, doc/DETAILS, "Format of the colon listings".
    """
    found: list[Key] = []
    bad, wanted = "", False
    for line in listing.splitlines():
        fields = line.split(":")
        if fields[0] == "pub":
            bad, wanted = _NO_GOOD.get(fields[1], ""), True
            if fields[1] == "e" and fields[6].isdecimal():
                bad += f" on {datetime.fromtimestamp(int(fields[6]), UTC):%Y-%m-%d}"
        elif fields[0] == "fpr" and wanted:
            found.append(Key(fields[9], bad))
            wanted = False
    return tuple(found)


@dataclass(frozen=True)
class Keyring:
    """The keys of one repository. repository: its name, for errors.

    ring: a file with all keys, binary. database: rpm's own, with those that count.
    """

    repository: str
    keys: tuple[Key, ...]
    ring: Path
    database: Path

    def check_detached(self, file: Path, signature: Path, run: Runner) -> None:
        """InputError unless a key that counts made the signature of the file."""
        done = run.run(
            ["gpgv", "--homedir", self.ring.parent, "--keyring", self.ring.absolute(),
             "--status-fd", "1", signature, file],
            timeout=_SECONDS,
            ok=(0, 1, 2),
        )  # fmt: skip
        if why := signature_fault(done.text):
            raise InputError(
                "trust the metadata of the repository",
                self.repository,
                why=f"the signature of repomd.xml {why}",
                next_step='Name the key of its makers in "keys" of the recipe, or another mirror',
            )

    def check_packages(self, files: Mapping[Path, str], run: Runner) -> None:
        """InputError for the first file that none of the keys signed, or that was changed since.

        files: path -> the package's name for people.
        """
        if not files:
            return
        done = run.run(
            [
                "rpmkeys", "--dbpath", self.database, "--define", "_pkgverify_level all",
                "--define", "_pkgverify_flags 0x0", "--checksig", "--verbose", *files,
            ],
            timeout=_SECONDS + _PER_PACKAGE * len(files),
            env={"HOME": str(self.database)},
            ok=range(256),
        )  # fmt: skip
        verdicts = parse_verdicts(done.text)
        for file, label in files.items():
            why = self._fault(verdicts.get(str(file), ["rpmkeys said nothing of it"]))
            if why:
                raise InputError(
                    f"trust a package of the repository {self.repository}:",
                    label,
                    why=why,
                    next_step="Nothing was installed; see who keeps the repository, or name"
                    ' another mirror or the right "keys" in the recipe',
                )
        if done.returncode != 0:  # rpmkeys knows better than a reader of its words
            raise InputError(
                "trust the packages of the repository",
                self.repository,
                why=f"rpmkeys refused them: {done.text[-500:]}",
            )

    def _fault(self, lines: Sequence[str]) -> str:
        signed = [match.groups() for line in lines if (match := _SIGNED.search(line))]
        for line in lines:
            if line.endswith(": BAD") or ": BAD (" in line:
                return f"it was changed after it was signed ({line.partition(' (')[0]})"
        if not signed:
            return "it is not signed" if any("NOTFOUND" in line for line in lines) else lines[0]
        for key, verdict in signed:
            if verdict != "OK":
                for known in self.keys:
                    if known.bad and known.fingerprint.lower().endswith(key):
                        return f"it is signed by the key {known.fingerprint}, which {known.bad}"
                return f"it is signed by the key {key}, which is none of the recipe's"
        return ""


def signature_fault(status: str) -> str:
    """What is wrong, by gpg's status lines, as a phrase after "the signature"; "" for nothing.

    Source: GnuPG, doc/DETAILS, "Format of the --status-fd output".
    """
    words = [line.split()[1:] for line in status.splitlines() if line.startswith("[GNUPG:] ")]
    said = {word[0]: word[1:] for word in words if word}
    key = next((v[0] for v in said.values() if v and re.fullmatch(r"[0-9A-F]{16,40}", v[0])), "")
    for name, why in (
        ("BADSIG", "does not fit its content"),
        ("EXPKEYSIG", f"is by the key {key}, which has expired"),
        ("REVKEYSIG", f"is by the key {key}, which was revoked"),
        ("EXPSIG", "has expired"),
        ("NO_PUBKEY", f"is by the key {key}, which is none of the recipe's"),
    ):
        if name in said:
            return why
    return "" if {"GOODSIG", "VALIDSIG"} <= said.keys() else "cannot be read"


def parse_verdicts(text: str) -> dict[str, list[str]]:
    """What `rpmkeys --checksig --verbose` says of each file, by the file's path."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("    "):
            current.append(line.strip())
        elif line.endswith(":"):
            current = found.setdefault(line[:-1], [])
        else:
            name, _, words = line.partition(": ")
            found.setdefault(name, []).append(words)
    return found


def open_keyring(repository: str, files: Sequence[Path], cache: Path, run: Runner) -> Keyring:
    """The keys of the files; InputError for a file without a key, or when none of them counts."""
    texts = [_text(path) for path in files]
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()[:32]
    place = cache / digest
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with exclusive(cache / f"{digest}.lock", f"the keys of {repository}", wait=_SECONDS):
        ring = place / "ring"
        if not ring.exists():
            write_whole(ring, b"".join(_binary(path, place, run) for path in files))
        listing = run.run(
            [*_gpg(place), "--with-colons", "--show-keys", ring], timeout=_SECONDS, noted=False
        )
        keys = parse_keys(listing.text)
        good = [key.fingerprint for key in keys if not key.bad]
        if not good:
            told = "; ".join(f"{key.fingerprint} {key.bad}" for key in keys)
            raise InputError(
                "trust the repository",
                repository,
                why=f"none of its keys counts: {told}",
                next_step='Name a newer key file in "keys" of the recipe',
            )
        chosen = hashlib.sha256(" ".join(good).encode()).hexdigest()[:32]
        database = place / chosen
        if not database.is_dir():
            _fill(database, good, ring, run)
    return Keyring(repository, keys, ring, database)


def _text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise InputError(
            "read the key file",
            path,
            why=error.strerror or str(error),
            next_step='"keys" of a repository names files beside the recipes file',
        ) from error


def _binary(path: Path, home: Path, run: Runner) -> bytes:
    """The keys of a file, armoured or not, as gpgv reads them; InputError where it has none.

    `gpg --import` is no way: it starts an agent, and calls a key that it took a failure where the
    agent's socket has a name of more than 107 characters.
    """
    try:
        shown = run.run([*_gpg(home), "--with-colons", "--show-keys", path], timeout=_SECONDS)
        if parse_keys(shown.text):
            argv = [*_gpg(home), "--output", "-", "--dearmor", path]
            return run.run(argv, timeout=_SECONDS).stdout
    except ProgramError:
        pass
    raise InputError(
        "use the key file",
        path,
        why="gpg finds no OpenPGP public key in it",
        next_step="Export the repository's keys: gpg --armor --export KEY >FILE",
    )


def _fill(database: Path, fingerprints: Sequence[str], ring: Path, run: Runner) -> None:
    """rpm's own database of keys, in a directory that has its name once it is whole."""
    partial = Path(tempfile.mkdtemp(prefix=".rpm-", dir=database.parent))
    chosen: list[str | Path]
    chosen = ["--no-default-keyring", "--keyring", ring.absolute(), "--armor", "--export"]
    try:
        for fingerprint in fingerprints:
            exported = partial / "key"
            done = run.run([*_gpg(ring.parent), *chosen, fingerprint], timeout=_SECONDS)
            exported.write_bytes(done.stdout)
            run.run(
                ["rpmkeys", "--dbpath", partial, "--import", exported],
                timeout=_SECONDS,
                env={"HOME": str(partial)},
                attempted=f"have rpm take the key {fingerprint}",
            )
            exported.unlink()
        partial.rename(database)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _gpg(home: Path) -> list[str | Path]:
    # No trust model: gpg 2.2.40 that is told one, and shown a key that has expired, ends for want
    # of a database of trust.
    return ["gpg", "--homedir", home, "--batch", "--no-tty", "--quiet", "--no-autostart"]
