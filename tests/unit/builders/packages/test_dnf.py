"""What the dnf backend reads: keys, verdicts, repomd.xml, URLs, headers of rpm's database."""

from __future__ import annotations

import json
import sqlite3
import struct
from pathlib import Path

import pytest

from pipeline.builders.packages.dnf import guest as dnf_guest
from pipeline.builders.packages.dnf.backend import expand_url
from pipeline.builders.packages.dnf.install import last_words
from pipeline.builders.packages.dnf.keys import Key, parse_keys, parse_verdicts, signature_fault
from pipeline.builders.packages.dnf.metadata import (
    Fetched,
    Refused,
    kept_repomd,
    newest,
    parse_repomd,
)
from pipeline.builders.packages.dnf.resolve import refusal, source_of
from pipeline.builders.packages.protocol import Wanted
from pipeline.core.errors import HostError, InputError
from pipeline.core.packages import PackageSystem, Repository

FINGERPRINT = "2EB467567210D6D60296DD8F33D2D0C50EAB3D5A"


def data(kind: str, place: str = "", algorithm: str = "sha256", more: str = "") -> str:
    return (
        f'<data type="{kind}"><checksum type="{algorithm}">{"A" * 64}</checksum>'
        f'<location href="{place or f"repodata/{kind}.xml.gz"}"/>{more}</data>'
    )


def repomd(*records: str) -> str:
    return (
        '<?xml version="1.0"?><repomd xmlns="http://linux.duke.edu/metadata/repo">'
        f"<revision>1</revision>{''.join(records)}</repomd>"
    )


def test_records_that_solving_needs() -> None:
    """Of Fedora's many: no zchunk, no changelogs, one form of the groups."""
    kinds = ("primary", "filelists", "other", "primary_db", "primary_zck", "group_gz", "group",
             "group_xz_zck", "modules", "updateinfo")  # fmt: skip
    more = "<size>12</size><timestamp>1700000000.5</timestamp>"
    records = parse_repomd(repomd(*(data(kind, more=more) for kind in kinds)))
    assert [record.kind for record in records] == ["primary", "filelists", "group_gz", "modules"]
    assert records[0].digest == "a" * 64 and records[0].size == 12
    assert records[0].date == 1700000000.5


def test_what_is_kept_is_read_the_same() -> None:
    text = repomd(data("primary"), data("other"), data("group"), data("primary_zck"))
    kept = kept_repomd(text).decode()
    assert parse_repomd(kept) == parse_repomd(text)
    assert "other" not in kept and "zck" not in kept


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<html>", "no XML"),
        ("<html/>", "another kind"),
        (repomd(data("filelists")), "no list of packages"),
        (repomd(data("primary", "../../etc/shadow")), "the place"),
        (repomd(data("primary", "/etc/shadow")), "the place"),
        (repomd(data("primary", algorithm="md5")), "digest of the kind 'md5'"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + repomd(data("primary")), "document type"),
    ],
)
def test_a_repomd_that_is_refused(text: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        parse_repomd(text)


def test_the_newest_date() -> None:
    fetched = [Fetched("a", 1700000000.0, True), Fetched("b", 0.0, False)]
    assert newest(fetched) == "2023-11-14T22:13:20Z"
    assert newest(fetched[1:]) == ""


def test_keys_of_a_listing() -> None:
    listing = (
        f"tru::1:1795989105:0:3:1:5\npub:e:2048:1:X:1577836800:1609502400::-:::sc:\n"
        f"fpr:::::::::{FINGERPRINT}:\nuid:e::::1::H::Old::::::::::0:\n"
        f"sub:e:2048:1:X:1:2::::\nfpr:::::::::{'9' * 40}:\n"
        f"pub:-:4096:1:Y:1577836800:::-:::scSC:\nfpr:::::::::{'1' * 40}:\n"
        f"pub:r:4096:1:Z:1577836800:::-:::scSC:\nfpr:::::::::{'2' * 40}:\n"
    )
    assert parse_keys(listing) == (
        Key(FINGERPRINT, "has expired on 2021-01-01"),
        Key("1" * 40, ""),
        Key("2" * 40, "was revoked"),
    )


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (f"GOODSIG {FINGERPRINT} Me\n[GNUPG:] VALIDSIG {FINGERPRINT} 2026-01-01", ""),
        (f"BADSIG {FINGERPRINT} Me", "does not fit its content"),
        ("ERRSIG 33D2D0C50EAB3D5A 1 8 00 1 9\n[GNUPG:] NO_PUBKEY 33D2D0C50EAB3D5A", "none of"),
        (f"EXPKEYSIG {FINGERPRINT} Me\n[GNUPG:] VALIDSIG {FINGERPRINT} 2026", "has expired"),
        (f"REVKEYSIG {FINGERPRINT} Me\n[GNUPG:] VALIDSIG {FINGERPRINT} 2026", "was revoked"),
        ("NODATA 4", "cannot be read"),
        (f"GOODSIG {FINGERPRINT} Me", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_signature_by_what_gpgv_says(status: str, why: str) -> None:
    found = signature_fault(f"[GNUPG:] NEWSIG\n[GNUPG:] {status}\n")
    assert (why in found) if why else found == ""


def test_a_name_that_looks_like_a_status_is_none() -> None:
    """Words of the signer's own name are no status lines."""
    assert signature_fault("gpgv: Good signature from [GNUPG:] GOODSIG VALIDSIG\n")


def test_verdicts_of_rpmkeys() -> None:
    text = "/a: b.rpm:\n    Header SHA256 digest: OK\n    MD5 digest: OK\n/c.rpm: not an rpm\n"
    assert parse_verdicts(text) == {
        "/a: b.rpm": ["Header SHA256 digest: OK", "MD5 digest: OK"],
        "/c.rpm": ["not an rpm"],
    }


def system(**more: str) -> PackageSystem:
    repository = Repository(name="r", urls=("https://m.example/",), keys=(Path("k"),))
    return PackageSystem.model_validate(
        {"distribution": "fedora", "release": "43", "repositories": (repository,), **more}
    )


def test_urls() -> None:
    url = "https://m.example/$releasever/${basearch}/{snapshot}/os/"
    assert expand_url(url, system(snapshot="20260101T000000Z"), "r") == (
        "https://m.example/43/x86_64/20260101T000000Z/os"
    )
    with pytest.raises(InputError, match="names no snapshot"):
        expand_url(url, system(), "r")
    with pytest.raises(InputError, match="neither http, https nor file"):
        expand_url("ftp://m.example", system(), "r")


def test_a_source_package() -> None:
    assert source_of("python3.11-setuptools-65.5.1-3.el9.src.rpm") == (
        "python3.11-setuptools 65.5.1-3.el9"
    )
    assert source_of("") == ""


def test_problems_become_errors() -> None:
    problem = {
        "kind": "package",
        "subject": "htpd",
        "why": "no repository has it",
        "near": ["httpd"],
    }
    error = refusal(problem, Wanted("image"))
    assert isinstance(error, InputError) and "Did you mean httpd" in str(error)
    assert isinstance(refusal({**problem, "kind": "parent"}, Wanted("image")), HostError)
    wanted = Wanted("image", exclude=("tips",))
    assert "(excluded: tips)" in str(refusal({**problem, "kind": "solve"}, wanted))


def test_last_words_begin_before_the_first_complaint() -> None:
    said = "\n".join([*map(str, range(20)), "no account", "error: %pre(a) scriptlet failed", "b"])
    assert last_words(said).splitlines() == ["18", "19", "no account",
                                             "error: %pre(a) scriptlet failed", "b"]  # fmt: skip
    assert last_words("x" * 9000 + "\n") == "x" * 3000
    # rpm goes on with other packages, whose scriptlets may say much.
    found = last_words("error: a-1: install failed\n" + "chatter\n" * 9000 + "the end\n")
    assert found.startswith("error: a-1: install failed\n") and found.endswith("the end")
    assert len(found) < 3100


def header(**times: int) -> bytes:
    """A header as rpm's database has it, with a few integers."""
    tags = {"INSTALLTIME": 1008, "BUILDTIME": 1006, "INSTALLTID": 1128}
    index = b"".join(struct.pack(">iiii", tags[name], 4, 4 * n, 1) for n, name in enumerate(times))
    values = struct.pack(f">{len(times)}I", *times.values())
    return struct.pack(">ii", len(times), len(values)) + index + values


def database(path: Path, installed: int) -> None:
    """One of two packages, as rpm leaves it: at work, in its own order of pages."""
    with sqlite3.connect(path) as made:
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT,"
                     "blob BLOB NOT NULL)")  # fmt: skip
        made.execute("CREATE TABLE 'Installtid' (key 'BLOB' NOT NULL, hnum INTEGER NOT NULL,"
                     " idx INTEGER NOT NULL)")  # fmt: skip
        for _ in range(installed % 7):  # a history that the rows do not tell
            made.execute("CREATE TABLE 'gone' (a)")
            made.execute("DROP TABLE 'gone'")
        for number in (1, 2):
            blob = header(INSTALLTIME=installed, BUILDTIME=1000 + number, INSTALLTID=installed)
            made.execute("INSERT INTO Packages VALUES (?, ?)", (number, blob))
            key = struct.pack("=I", installed)
            made.execute("INSERT INTO Installtid VALUES (?, ?, 0)", (key, number))
    made.close()


def test_a_database_is_the_same_whenever_it_was_filled(tmp_path: Path) -> None:
    contents = []
    for installed in (5000, 6001):
        path = tmp_path / f"{installed}.sqlite"
        database(path, installed)
        assert dnf_guest.rewrite(str(path), 0) == 1002
        contents.append(path.read_bytes())
        with sqlite3.connect(path) as read:
            rows = read.execute("SELECT blob FROM Packages ORDER BY hnum").fetchall()
            keys = read.execute("SELECT key FROM Installtid").fetchall()
            sequence = read.execute("SELECT seq FROM sqlite_sequence").fetchone()
        read.close()
        assert [blob for (blob,) in rows] == [
            header(INSTALLTIME=1002, BUILDTIME=1000 + n, INSTALLTID=1002) for n in (1, 2)
        ]
        assert {struct.unpack("=I", key)[0] for (key,) in keys} == {1002}
        assert sequence == (2,)
    assert contents[0] == contents[1]
    assert [path.name for path in tmp_path.glob("*-*")] == []


def test_a_database_below_keeps_its_times(tmp_path: Path) -> None:
    """What a lower layer installed is not installed again by the one above."""
    path = tmp_path / "rpmdb.sqlite"
    database(path, 900)
    dnf_guest.rewrite(str(path), 2000)
    with sqlite3.connect(path) as read:
        ((blob,), _) = read.execute("SELECT blob FROM Packages ORDER BY hnum").fetchall()
    read.close()
    assert blob == header(INSTALLTIME=900, BUILDTIME=1001, INSTALLTID=900)


def test_modes_of_what_was_mounted_over(tmp_path: Path) -> None:
    """A link in a directory's place leads nobody out of the root."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for path in (root, outside, root / "proc", root / "dev"):
        path.mkdir(mode=0o700)
    (root / "sys").symlink_to(outside)
    dnf_guest.places(json.loads(json.dumps({"root": str(root), "epoch": 1000})))
    assert (root / "proc").stat().st_mode & 0o7777 == 0o555
    assert (root / "dev").stat().st_mode & 0o7777 == 0o755
    assert outside.stat().st_mode & 0o7777 == 0o700 and outside.stat().st_mtime > 1000
    assert root.stat().st_mtime == 1000 and (root / "proc").stat().st_mtime == 1000
