"""What of the apt backend needs no network: keys, sources, indexes, order, apt's words."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pipeline.builders.packages import apt_index, apt_install, apt_keys, apt_order, apt_words
from pipeline.builders.packages.apt import open_backend
from pipeline.builders.packages.apt_config import repository_urls, sources
from pipeline.builders.packages.apt_index import IndexFile
from pipeline.core.errors import InputError
from pipeline.core.events import QuietProgress
from pipeline.core.packages import PackageSystem
from pipeline.host.context import Tools
from pipeline.host.programs import Runner

URLS = {"main": "http://a.example.org/debian", "security": "http://a.example.org/debian-security"}

RECORDS = """\
Package: dash
Essential: yes
Version: 0.5.12-2
Architecture: amd64
Depends: debianutils (>= 5.6-0.1), dpkg (>= 1.19.1)
Pre-Depends: libc6 (>= 2.36)
Description: shell
 of two lines
Filename: pool/main/d/dash/dash_0.5.12-2_amd64.deb
Size: 97428
SHA256: 33ea40061da2f1a861ec46212b2b6a34f0776a049b1a3f0abce2fb8cb994258f

Package: libssl3
Source: openssl (3.0.17-1~deb12u2)
Version: 3.0.17-1~deb12u2+b1
Priority: required
Architecture: amd64
Filename: pool/main/o/openssl/libssl3_3.0.17-1~deb12u2+b1_amd64.deb
Size: 2
SHA256: 44ea40061da2f1a861ec46212b2b6a34f0776a049b1a3f0abce2fb8cb994258f
Task: many, ssh-server
"""


@pytest.fixture
def indexes(tmp_path: Path) -> list[IndexFile]:
    (tmp_path / "one").write_text(RECORDS)
    (tmp_path / "empty").touch()
    return [IndexFile(tmp_path / "empty", "none"), IndexFile(tmp_path / "one", "main")]


def test_records_are_found_by_what_they_are_asked_for(indexes: list[IndexFile]) -> None:
    name = "pool/main/d/dash/dash_0.5.12-2_amd64.deb"
    found = apt_index.by_file_name(indexes, {name, "pool/none.deb"})
    assert list(found) == [name]
    assert found[name].repository == "main"
    assert found[name].record == RECORDS.partition("\n\n")[0] + "\n"
    assert apt_index.minimum(indexes) == ("dash", "libssl3")
    assert apt_index.names(indexes) == {"dash", "libssl3"}
    assert apt_index.has(indexes, "dash") and apt_index.has(indexes, "libssl3")
    assert not apt_index.has(indexes, "libssl")
    assert apt_index.tasks(indexes) == {"many": ["libssl3"], "ssh-server": ["libssl3"]}
    digest = "44ea40061da2f1a861ec46212b2b6a34f0776a049b1a3f0abce2fb8cb994258f"
    assert apt_index.fields(apt_index.by_hash(indexes, {digest})[digest])["Package"] == "libssl3"


def test_an_installed_record_is_as_dpkg_writes_it() -> None:
    assert apt_index.installed(RECORDS.partition("\n\n")[0]) == (
        "Package: dash\nStatus: install ok installed\nEssential: yes\nVersion: 0.5.12-2\n"
        "Architecture: amd64\nDepends: debianutils (>= 5.6-0.1), dpkg (>= 1.19.1)\n"
        "Pre-Depends: libc6 (>= 2.36)\nDescription: shell\n of two lines\n"
    )


def test_sources_of_a_package() -> None:
    first, second = (apt_index.fields(text) for text in RECORDS.split("\n\n"))
    assert apt_index.source_of(first) == "dash 0.5.12-2"
    assert apt_index.source_of(second) == "openssl 3.0.17-1~deb12u2"


def system(tmp_path: Path, **more: object) -> PackageSystem:
    repository = {
        "name": "main",
        "urls": ["http://me:secret@a.example.org/{snapshot}/", "http://b.example.org"],
        "keys": [tmp_path / "key.gpg"],
        "suites": ["bookworm", "bookworm-updates"],
        "components": ["main", "universe"],
    }
    fields = {"distribution": "debian", "release": "bookworm", "repositories": [repository]}
    return PackageSystem.model_validate(fields | more)


def test_sources(tmp_path: Path) -> None:
    asked = system(tmp_path, snapshot="20260101T000000Z", architecture="aarch64")
    urls = repository_urls(asked, asked.repositories[0])
    assert urls == ("http://a.example.org/20260101T000000Z", "http://b.example.org")
    assert sources(asked, {"main": urls[0]}, Path("/k")) == {
        "00-main.sources": "Types: deb\nURIs: http://a.example.org/20260101T000000Z\n"
        "Suites: bookworm bookworm-updates\nComponents: main universe\nArchitectures: arm64\n"
        "Signed-By: /k/main.gpg\n"
    }


KEY = bytes.fromhex(
    # An ed25519 key of version 4: packet 6 in the newer format, 51 bytes.
    "c633046500000016092b06010401da470f01010740" + "11" * 32
)


def test_keys(tmp_path: Path) -> None:
    binary, text = tmp_path / "a.gpg", tmp_path / "b.asc"
    binary.write_bytes(KEY)
    text.write_text("a key\n" + apt_keys.armoured(KEY))
    assert apt_keys.keyring([binary, text]) == KEY + KEY
    (fingerprint,) = apt_keys.fingerprints(KEY)
    listed = ["gpg", "--homedir", str(tmp_path), "--batch", "--with-colons", "--show-keys"]
    for file in (binary, text):
        done = subprocess.run([*listed, str(file)], check=True, capture_output=True, text=True)
        assert f"fpr:::::::::{fingerprint}:" in done.stdout


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no public key"),
        (KEY[:-1], "cut short"),
        (b"<html>no key here</html>", "no packet"),
        (b"\0\0\0\x20\x01\x01\0\2KBXf" + bytes(20), "key box"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!\n", "no OpenPGP keyring"),
        (None, "No such file"),
    ],
)
def test_no_keys(content: bytes | None, why: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=why):
        apt_keys.keyring([file])


def test_a_whole_keyring_of_a_distribution() -> None:
    ring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    listed = ["gpg", "--batch", "--with-colons", "--show-keys", str(ring)]
    done = subprocess.run(listed, check=True, capture_output=True, text=True)
    # The first fingerprint after "pub" is the key's own, those after "sub" are its subkeys'.
    primary = set(re.findall(r"^pub:.*(?:\nrvk:.*)*\nfpr:+(\w+):", done.stdout, re.MULTILINE))
    assert len(primary) == done.stdout.count("\npub:") + 1
    assert apt_keys.fingerprints(apt_keys.keyring([ring])) == primary


A, S = "http://a.example.org/debian", "http://a.example.org/debian-security"


@pytest.mark.parametrize(
    ("output", "name", "refused", "why"),
    [
        (
            f"W: GPG error: {A} bookworm InRelease: The following signatures couldn't be verified"
            " because the public key is not available: NO_PUBKEY 0E98404D386FA1D9\n"
            f"E: The repository '{A} bookworm InRelease' is not signed.\n",
            "main",
            True,
            "it is signed by the key 0E98404D386FA1D9, which is not among its keys",
        ),
        (
            f"W: GPG error: {S} stable InRelease: The following signatures were invalid:"
            " EXPKEYSIG 1E5A2F9C0D3B4A68 old <old@example.org>\n",
            "security",
            True,
            "the key 1E5A2F9C0D3B4A68 that signed it has expired",
        ),
        (
            f"E: Release file for {A}/dists/forky/InRelease is expired (invalid since 23d 13h 57min"
            " 4s). Updates for this repository will not be applied.\n",
            "main",
            True,
            "its Release file passed its Valid-Until 23d 13h 57min 4s ago",
        ),
        (
            f"E: Release file for {A}/dists/forky/InRelease is not valid yet (invalid for another"
            " 3h 2min). Updates for this repository will not be applied.\n",
            "main",
            True,
            "its Release file is dated 3h 2min in the future",
        ),
        (
            f"E: The repository '{A} stable Release' is no longer signed.\n",
            "main",
            True,
            "it is not signed",
        ),
        (
            f"W: Skipping acquire of configured file 'contrib/binary-amd64/Packages' as repository"
            f" '{A} stable InRelease' doesn't have the component 'contrib' (component misspelt in"
            " sources.list?)\n",
            "main",
            True,
            "it has no contrib",
        ),
        (
            f"E: Failed to fetch {S}/dists/x/InRelease  Could not connect to 127.0.0.1:9"
            " (127.0.0.1). - connect (111: Connection refused)\n"
            "E: Some index files failed to download. They have been ignored, or old ones used"
            " instead.\n",
            "security",
            False,
            "Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)",
        ),
        (
            f"E: Failed to fetch {A}/dists/x/main/binary-amd64/Packages.xz  Hash Sum mismatch\n"
            "   Hashes of expected file:\n    - SHA256:11\n",
            "main",
            False,
            "Hash Sum mismatch Hashes of expected file: - SHA256:11",
        ),
        (
            f"E: Failed to fetch {A}/dists/x/InRelease  Clearsigned file isn't valid, got 'NOSPLIT'"
            " (does the network require authentication?)\n",
            "main",
            False,
            "Clearsigned file isn't valid, got 'NOSPLIT' (does the network require"
            " authentication?)",
        ),
    ],
)
def test_what_an_update_complains_of(output: str, name: str, refused: bool, why: str) -> None:
    (found,) = apt_words.failures(output, URLS)
    assert (found.repository, found.refused, found.why) == (name, refused, why)
    assert found.next_step or not refused


def test_an_update_that_is_content() -> None:
    output = f"Hit:1 {A} bookworm InRelease\nReading package lists...\n"
    assert apt_words.failures(output, URLS) == []


def test_a_file_system_that_is_full() -> None:
    said = "E: Error writing to file - write (28: No space left on device)"
    assert apt_words.is_full(said) and not apt_words.is_full("E: Hash Sum mismatch")


def node(name: str, **fields: str) -> apt_order.Node:
    named = {key.replace("_", "-"): value for key, value in fields.items()}
    return apt_order.node({"Package": name, **named})


def test_the_foundation_is_the_essential_with_what_they_need() -> None:
    nodes = [
        node("dash", Essential="yes", Pre_Depends="libc6 (>= 2)", Depends="awk | perl:any"),
        node("libc6", Depends="libgcc-s1"),
        node("libgcc-s1", Depends="libc6"),
        node("mawk", Provides="awk (= 1)"),
        node("perl"),
        node("apt", Depends="libc6"),
    ]
    assert apt_order.foundation(nodes) == {"dash", "libc6", "libgcc-s1", "mawk"}


def test_a_pre_dependency_is_configured_with_all_it_needs_and_nothing_else() -> None:
    nodes = [
        node("image", Pre_Depends="linux-base | other"),
        node("linux-base", Depends="lib"),
        node("lib"),
        node("udev", Depends="systemd"),
        node("systemd", Pre_Depends="libc6, virtual"),
        node("real", Provides="virtual"),
    ]
    assert list(apt_order.steps(nodes, ())) == [
        ("unpack", ["linux-base", "lib", "udev", "real"]),
        ("configure", ["lib", "linux-base", "real"]),
        ("unpack", ["image", "systemd"]),
        ("configure", []),
    ]


def test_a_circle_of_pre_dependencies_ends() -> None:
    nodes = [node("a", Pre_Depends="b"), node("b", Pre_Depends="a")]
    assert list(apt_order.steps(nodes, ())) == [("unpack", ["a", "b"]), ("configure", [])]
    assert list(apt_order.steps([], ())) == []


def test_the_time_of_a_package_is_that_of_its_newest_file(tmp_path: Path) -> None:
    head = b"!<arch>\ndebian-binary   %-12d0     0     100644  4         `\n2.0\n"
    for name, date in (("a", 1700000000), ("b", 1800000000)):
        (tmp_path / name).write_bytes(head % date)
    assert apt_install.epoch([tmp_path / "a", tmp_path / "b"]) == 1800000000
    assert apt_install.epoch([]) == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"suites": []}, "no suite"),
        ({"components": []}, "no component"),
        ({"urls": ["http://a.example.org/{snapshot}"]}, "snapshot"),
        ({"urls": ['http://a.example.org/"; x']}, "no URL"),
    ],
)
def test_a_system_that_cannot_work(change: dict[str, object], why: str, tmp_path: Path) -> None:
    (tmp_path / "key.gpg").write_bytes(KEY)
    asked = system(tmp_path, snapshot="" if "urls" in change else "20260101T000000Z")
    repository = asked.repositories[0].model_copy(update=change)
    asked = asked.model_copy(update={"repositories": (repository,)})
    with Runner() as run, pytest.raises(InputError, match=why):
        open_backend(asked, Tools(run, QuietProgress(), tmp_path), tmp_path).check()
