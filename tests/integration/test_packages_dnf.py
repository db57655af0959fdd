"""Systems of RPM packages: a signed repository on loopback, real rpm transactions in isolation."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.builders.packages.dnf.backend import DnfBackend, open_backend
from pipeline.builders.packages.protocol import LayerKind, Package, RepositoryState, Wanted
from pipeline.core.errors import HostError, InputError, InstallError
from pipeline.core.events import QuietProgress
from pipeline.core.packages import PackageSystem, Repository
from pipeline.core.resources import PROJECT
from pipeline.host.context import Tools
from pipeline.host.isolation import Isolation, Root, find_isolation, remove_tree, run_mapped
from pipeline.host.programs import Runner
from tests.fixtures.isolated import PYTHON, as_builder
from tests.fixtures.rpm_packages import Spec, distribution
from tests.fixtures.rpm_repository import (
    Key,
    build,
    index,
    make_key,
    make_repository,
    sign,
)
from tests.fixtures.rpm_repository import Repository as Made
from tests.fixtures.rpm_tricks import EXTRAS, GROUPS, MODULAR, MODULES, probe

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("rpm")
    return make_repository(place, [*distribution(), *EXTRAS], GROUPS)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]


@contextmanager
def served(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """The directory by HTTP: its URL, and the paths that were asked for."""
    handler = partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


class Heard(QuietProgress):
    """Keeps what the user would read."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@dataclass
class Bench:
    """A user's directory, and the layers that were made in it."""

    place: Path
    tools: Tools
    heard: Heard
    layers: list[Path] = field(default_factory=list)
    packages: list[Package] = field(default_factory=list)
    overlay: bool = True

    @property
    def isolation(self) -> Isolation:
        return replace(find_isolation(self.tools), overlay=self.overlay)

    def system(self, *urls: str, keys: Sequence[Path], **more: object) -> PackageSystem:
        repository = Repository(name="small", urls=urls, keys=tuple(keys))
        return PackageSystem.model_validate(
            {"distribution": "el", "release": "9", "repositories": (repository,), **more}
        )

    def backend(self, *urls: str, keys: Sequence[Path], **more: object) -> DnfBackend:
        return open_backend(self.system(*urls, keys=keys, **more), self.tools, self.place / "cache")

    def add(
        self,
        backend: DnfBackend,
        state: RepositoryState,
        kind: LayerKind,
        packages: Sequence[str] = (),
        groups: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> Path:
        """Solve, fetch and install one more layer; its directory."""
        wanted = Wanted(kind, tuple(packages), tuple(groups), tuple(exclude))
        new = backend.resolve(state, wanted, self.packages)
        files = backend.fetch(state, new)
        upper, work = self.place / f"{len(self.layers)}-{kind}", self.place / "work"
        for path in (upper, work):
            path.mkdir(exist_ok=True)
        backend.install(
            Root(tuple(reversed(self.layers)), upper, work),
            wanted,
            new,
            files,
            isolation=self.isolation,
            tools=self.tools,
            log=self.place / f"{kind}.log",
        )
        remove_tree(find_isolation(self.tools), work, self.tools)
        self.layers.append(upper)
        self.packages += new
        return upper

    @contextmanager
    def seen(self) -> Iterator[Callable[..., str]]:
        """Run trusted programs that see the layers at {root}."""
        work, empty, at = (self.place / name for name in ("seen-work", "seen-upper", "seen"))
        for path in (work, empty, at):
            path.mkdir()
        isolation = find_isolation(self.tools)
        root = Root(tuple(reversed(self.layers)), empty, work)

        def run(*argv: str) -> str:
            words = [word.replace("{root}", str(at)) for word in argv]
            return run_mapped(
                isolation, words, tools=self.tools, timeout=120, mounts=[(root, at)]
            ).text

        try:
            yield run
        finally:
            for path in (work, empty):
                remove_tree(isolation, path, self.tools)
            at.rmdir()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    tmp_path.chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    heard = Heard()
    with Runner() as run:
        tools = Tools(run, heard, scratch)
        found = Bench(tmp_path, tools, heard)
        yield found
        isolation = find_isolation(tools)
        for layer in tmp_path.glob("[0-9]-*"):
            remove_tree(isolation, layer, tools)


def all_key_files(made: Made) -> list[Path]:
    assert made.key is not None
    return [made.key.public]


def core_and_base(bench: Bench, backend: DnfBackend, state: RepositoryState) -> None:
    bench.add(backend, state, "core")
    bench.add(backend, state, "base", ["kernel", "openssh-server", "selinux-policy-targeted"])


# What the tree of a layer is: paths, modes, owners, times, links, contents, attributes.
_DIGEST = """
import hashlib, os, sys
digest = hashlib.sha256()
top = sys.argv[1]
for folder, folders, files in os.walk(top):
    folders.sort()
    for name in sorted(files + folders):
        path = os.path.join(folder, name)
        s = os.lstat(path)
        words = [os.path.relpath(path, top), s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns]
        if os.path.islink(path):
            words.append(os.readlink(path))
        else:
            words += [(n, os.getxattr(path, n)) for n in sorted(os.listxattr(path))
                      if not n.startswith("user.overlay.origin")]
            if os.path.isfile(path):
                words.append(hashlib.sha256(open(path, "rb").read()).hexdigest())
        digest.update(repr(words).encode())
print(digest.hexdigest())
"""


def test_a_bootable_root_in_three_layers(bench: Bench, made: Made) -> None:
    with served(made.directory) as (url, asked):
        backend = bench.backend(url, keys=all_key_files(made))
        backend.check()
        state = backend.state(refresh=False)
        core = bench.add(backend, state, "core")
        base = bench.add(backend, state, "base", ["kernel", "openssh-server"])
        bench.add(backend, state, "image", ["new-tool"], ["core", "reading"])
        assert "/repodata/repomd.xml.asc" in asked
    assert len(state.digest) == 64 and state.date.startswith("2023-11-14T22:13:20")
    names = {package.name for package in bench.packages}
    assert {"kernel-core", "dracut", "shadow-utils", "needs-tips", "curl"} <= names
    assert "nowhere" in " ".join(bench.heard.warnings)
    with bench.seen() as run:
        listed = run("rpm", "--root", "{root}", "--dbpath", "/var/lib/rpm", "-qa",
                     "--queryformat", "%{NAME} %{EPOCH}\n")  # fmt: skip
        assert {line.split()[0] for line in listed.splitlines()} == names
        assert "shadow-utils 2" in listed
        modes = run("stat", "-c", "%a %u %g %n", *(f"{{root}}/{p}" for p in (
            "tmp", "proc", "sys", "dev", "root", "usr/bin/newgrp", "usr/bin/wall-all",
            "etc/shadow", "etc/machine-id")))  # fmt: skip
        told = {line.split("/seen/")[1]: line.split()[0] for line in modes.splitlines()}
        assert told == {
            "tmp": "1777", "proc": "555", "sys": "555", "dev": "755", "root": "550",
            "usr/bin/newgrp": "4755", "usr/bin/wall-all": "2755", "etc/shadow": "600",
            "etc/machine-id": "444",
        }  # fmt: skip
        assert "cap_net_raw=ep" in run("getcap", "{root}/usr/bin/arping-raw")
        assert "/usr/share/tips/one" in run("cat", "{root}/var/lib/tips.list")
        assert "/bin/bash" in run("cat", "{root}/etc/shells")
        entries = run("sh", "-c", "cat {root}/boot/loader/entries/*")
        assert "options root=LABEL=uec-rootfs ro\n" in entries
        ramdisk = run("sh", "-c", "zcat {root}/boot/initramfs-*.img | cpio -t 2>/dev/null")
        assert "virtio_blk.ko" in ramdisk  # not for the machine that built it
        assert (base / "boot").is_dir() and not list((core / "boot").iterdir())
        assert run("cat", "{root}/etc/machine-id") == ""
        run("test", "!", "-e", "{root}/etc/kernel")  # ours for a while; the next is dracut's
        run("test", "-d", "{root}/etc/dracut.conf.d")
        run("test", "!", "-e", "{root}/usr/lib/sysimage")  # the guest's rpm looks elsewhere
        run("test", "!", "-e", "{root}/.autorelabel")  # it has no policy
        left = run("find", "{root}", "-mindepth", "1", "-xdev", "(", "-name", "*.rpm", "-o",
                   "-name", ".rpm*", "-o",
                   "-name", "random-seed", "-o", "-name", "zz-*", "-o", "-name", ".tools", "-o",
                   "-name", "*-wal", "-o", "-name", "aux-cache", "-o", "-newermt",
                   "2023-11-14T22:13:21Z", ")")  # fmt: skip
        assert left == ""
        grep = f"grep -rlF -e {bench.place} -e {os.uname().nodename}.  {{root}}/etc {{root}}/var"
        assert run("sh", "-c", f"{grep} || true") == ""


def test_two_builds_are_equal(bench: Bench, made: Made) -> None:
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    digests = []
    for _ in range(2):
        bench.layers, bench.packages = [], []
        core_and_base(bench, backend, state)
        bench.add(backend, state, "image", ["daemon"], ["core"])
        # Its policy comes with the base; nobody could label the files yet.
        assert (bench.layers[1] / ".autorelabel").exists()
        with bench.seen() as run:
            digests.append(run(sys.executable, "-c", _DIGEST, "{root}"))
        for layer in bench.layers:
            remove_tree(find_isolation(bench.tools), layer, bench.tools)
    assert digests[0] == digests[1]


def test_without_overlays(bench: Bench, made: Made) -> None:
    """Each layer is a whole root then."""
    bench.overlay = False
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    bench.add(backend, state, "core")
    top = bench.add(backend, state, "image", ["tips"])
    query: list[str | Path] = ["rpm", "--root", top, "--dbpath", "/var/lib/rpm", "-qa"]
    listed = run_mapped(bench.isolation, query, tools=bench.tools, timeout=60).text
    assert "tips-1.0-1.noarch" in listed and "filesystem-3.16-1.x86_64" in listed
    assert (top / "proc").stat().st_mode & 0o7777 == 0o555


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_as_an_ordinary_user() -> None:
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "three_layers or no_host"]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        argv = [PYTHON, *words, __file__, f"--basetemp={place}/home/t"]
        done = as_builder(place / "home", argv)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_nothing_is_asked_twice(bench: Bench, made: Made) -> None:
    with served(made.directory) as (url, asked):
        backend = bench.backend(url, keys=all_key_files(made))
        state = backend.state(refresh=False)
        packages = backend.resolve(state, Wanted("core"), ())
        files = backend.fetch(state, packages)
        count = len(asked)
    again = bench.backend(url, keys=all_key_files(made))
    assert again.state(refresh=False) == state
    assert again.resolve(state, Wanted("core"), ()) == packages
    assert again.fetch(state, packages) == files
    assert count > 0
    for package, path in zip(packages, files, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256
    with pytest.raises(HostError, match="urls"):
        again.state(refresh=True)
    assert again.state(refresh=False) == state  # what was kept is as it was


def copied(made: Made, place: Path) -> Made:
    """The same repository in a directory of the test's own."""
    shutil.copytree(made.directory, place)
    return Made(place, made.key)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def fetch_one(bench: Bench, made: Made, keys: Sequence[Path], name: str = "tips") -> None:
    backend = bench.backend(made.directory.as_uri(), keys=keys)
    state = backend.state(refresh=False)
    found = [p for p in backend.resolve(state, Wanted("image", (name,)), ()) if p.name == name]
    backend.fetch(state, found)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_cache(bench: Bench, made: Made) -> None:
    small = bench.place / "cache"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "small", small], check=True)
    try:
        backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
        state = backend.state(refresh=True)
        found = backend.resolve(state, Wanted("core"), ())
        with pytest.raises(HostError, match="IMAGE_PIPELINE_CACHE"):
            backend.fetch(state, found)
        assert not [path.name for path in small.rglob("*.partial")]
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_unsigned_package(bench: Bench, made: Made, tmp_path: Path) -> None:
    lying = copied(made, tmp_path / "r")
    assert made.key is not None
    subprocess.run(["rpm", "--delsign", lying.package("tips")], check=True, capture_output=True)
    index(lying.directory, made.key)
    with pytest.raises(InputError, match=r"tips-1\.0-1\.noarch: it is not signed"):
        fetch_one(bench, lying, all_key_files(made))


def test_a_package_of_another_key(bench: Bench, made: Made, tmp_path: Path) -> None:
    lying = copied(made, tmp_path / "r")
    other = make_key(tmp_path / "other", "Somebody Else <else@example.org>")
    sign([lying.package("tips")], other)
    index(lying.directory, made.key)
    with pytest.raises(InputError, match="which is none of the recipe's"):
        fetch_one(bench, lying, all_key_files(made))


def expired(place: Path) -> Key:
    return make_key(place, "Old <old@example.org>", at="20200101T000000!", expires="2021-01-01")


def test_an_expired_key(bench: Bench, made: Made, tmp_path: Path) -> None:
    old = expired(tmp_path / "old")
    with pytest.raises(InputError, match=r"none of its keys counts: .* has expired on 2021-01-01"):
        bench.backend(made.directory.as_uri(), keys=[old.public]).check()


def test_a_package_of_a_key_that_has_expired_since(
    bench: Bench, made: Made, tmp_path: Path
) -> None:
    lying = copied(made, tmp_path / "r")
    old = expired(tmp_path / "old")
    sign([lying.package("tips")], old, at="20200601T000000!")
    index(lying.directory, made.key)
    with pytest.raises(InputError, match=r"signed by the key \S+, which has expired on 202"):
        fetch_one(bench, lying, [*all_key_files(made), old.public])


def test_a_package_that_was_changed(bench: Bench, made: Made, tmp_path: Path) -> None:
    """By whoever also writes the metadata: the digest there fits."""
    lying = copied(made, tmp_path / "r")
    flip(lying.package("tips"), -5)
    index(lying.directory, made.key)
    with pytest.raises(InputError, match="it was changed after it was signed"):
        fetch_one(bench, lying, all_key_files(made))


def test_a_package_that_the_metadata_does_not_know(
    bench: Bench, made: Made, tmp_path: Path
) -> None:
    lying = copied(made, tmp_path / "r")
    flip(lying.package("tips"), -5)
    with pytest.raises(InputError, match=r"has the sha256 \S+, not "):
        fetch_one(bench, lying, all_key_files(made))


def test_a_package_that_was_changed_in_the_cache(bench: Bench, made: Made) -> None:
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    packages = backend.resolve(state, Wanted("core"), ())
    (first, *_) = backend.fetch(state, packages)
    flip(first, -5)
    backend.fetch(state, packages)
    assert hashlib.sha256(first.read_bytes()).hexdigest() == packages[0].sha256


def test_metadata_that_was_changed(bench: Bench, made: Made, tmp_path: Path) -> None:
    lying = copied(made, tmp_path / "r")
    (primary,) = lying.directory.glob("repodata/*-primary.xml.gz")
    flip(primary, 100)
    with pytest.raises(InputError, match=r"primary.xml.gz has the sha256"):
        bench.backend(lying.directory.as_uri(), keys=all_key_files(made)).state(refresh=False)


def test_a_signature_of_other_metadata(bench: Bench, made: Made, tmp_path: Path) -> None:
    lying = copied(made, tmp_path / "r")
    repomd = lying.directory / "repodata/repomd.xml"
    repomd.write_text(repomd.read_text().replace("1700000000", "1700000001"))
    with pytest.raises(InputError, match="does not fit its content"):
        bench.backend(lying.directory.as_uri(), keys=all_key_files(made)).state(refresh=False)


def test_metadata_signed_by_another_key(bench: Bench, made: Made, tmp_path: Path) -> None:
    lying = copied(made, tmp_path / "r")
    index(lying.directory, make_key(tmp_path / "other", "Somebody Else <else@example.org>"))
    with pytest.raises(InputError, match="which is none of the recipe's"):
        bench.backend(lying.directory.as_uri(), keys=all_key_files(made)).state(refresh=False)


def test_a_signature_that_is_gone(bench: Bench, made: Made, tmp_path: Path) -> None:
    """Metadata without one is usual; metadata that lost it is not."""
    other = copied(made, tmp_path / "r")
    backend = bench.backend(other.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=True)
    (other.directory / "repodata/repomd.xml.asc").unlink()
    with pytest.raises(InputError, match="no signature any more"):
        backend.state(refresh=True)
    assert backend.state(refresh=False) == state


def test_metadata_without_a_signature_is_usual(bench: Bench, made: Made, tmp_path: Path) -> None:
    other = copied(made, tmp_path / "r")
    index(other.directory, None)
    backend = bench.backend(other.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=True)
    packages = backend.resolve(state, Wanted("image", ("tips",)), ())
    assert [path.is_file() for path in backend.fetch(state, packages)] == [True]


def test_the_next_mirror(bench: Bench, made: Made, tmp_path: Path) -> None:
    """One that is dead, one that lies about its files, one that is right."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    lying = copied(made, tmp_path / "r")
    flip(lying.package("tips"), -5)
    (primary,) = lying.directory.glob("repodata/*-primary.xml.gz")
    flip(primary, 100)
    with served(lying.directory) as (lie, _), served(made.directory) as (right, _):
        backend = bench.backend(dead, lie, right, keys=all_key_files(made))
        state = backend.state(refresh=True)
        packages = backend.resolve(state, Wanted("image", ("tips",)), ())
        backend.fetch(state, packages)
    warned = " ".join(bench.heard.warnings)
    assert dead in warned and lie in warned and right not in warned


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted("image", ("needs-tips",), exclude=("tips",)), r"needs-tips.*\n?.*tips"),
        (Wanted("image", ("tips",), exclude=("tips",)), "the recipe excludes it"),
        (Wanted("image", ("openssh-servr",)), "Did you mean openssh-server"),
        (Wanted("image", (), ("readings",)), "known are core, reading. Did you mean reading"),
    ],
)  # fmt: skip
def test_what_cannot_be_had(bench: Bench, made: Made, wanted: Wanted, said: str) -> None:
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    with pytest.raises(InputError, match=f"(?s){said}"):
        backend.resolve(state, wanted, ())


@pytest.mark.parametrize("weak", [True, False])
def test_weak_dependencies(bench: Bench, made: Made, weak: bool) -> None:
    uri = made.directory.as_uri()
    backend = bench.backend(uri, keys=all_key_files(made), weak_dependencies=weak)
    packages = backend.resolve(backend.state(refresh=False), Wanted("core"), ())
    assert ("tips" in {package.name for package in packages}) is weak


def test_a_package_that_takes_the_place_of_one_below(bench: Bench, made: Made) -> None:
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    bench.add(backend, state, "core", ["old-tool-1.0"])
    bench.add(backend, state, "base", ["new-tool"])
    with bench.seen() as run:
        listed = run("rpm", "--root", "{root}", "--dbpath", "/var/lib/rpm", "-qa").splitlines()
        assert "new-tool-2.0-1.noarch" in listed and "old-tool-1.0-1.noarch" not in listed
        assert "echo new" in run("cat", "{root}/usr/bin/tool")


@pytest.mark.parametrize(
    ("package", "words"),
    [("broken-before", "no account to be had"), ("broken-after", "the index is full")],
)
def test_a_scriptlet_that_fails(bench: Bench, made: Made, package: str, words: str) -> None:
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    bench.add(backend, state, "core")
    with pytest.raises(InstallError, match=f"(?s){words}.*{package}.*scriptlet failed"):
        bench.add(backend, state, "image", [package])
    with bench.seen() as run:  # the layers below have nothing of it
        assert package not in run("rpm", "--root", "{root}", "--dbpath", "/var/lib/rpm", "-qa")


def test_a_user_that_comes_with_the_transaction(bench: Bench, made: Made) -> None:
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    bench.add(backend, state, "core")
    bench.add(backend, state, "base", ["daemon"])
    with bench.seen() as run:
        assert run("stat", "-c", "%a %u:%g", "{root}/usr/sbin/daemon") == "4750 0:201\n"


def test_a_database_that_cannot_be_written(bench: Bench, made: Made) -> None:
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    with pytest.raises(InstallError, match="Enterprise Linux 9 or later"):
        bench.add(backend, state, "core", ["old-rpm"])


def test_a_scriptlet_that_destroys_the_database(bench: Bench, made: Made) -> None:
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    with pytest.raises(InstallError, match=r"settle the root.*DatabaseError"):
        bench.add(backend, state, "core", ["trasher"])


def test_metadata_of_zstd(bench: Bench, made: Made, tmp_path: Path) -> None:
    """As Fedora's since release 41."""
    other = copied(made, tmp_path / "r")
    repodata = other.directory / "repodata"
    (old,) = repodata.glob("*-primary.xml.gz")
    plain = gzip.decompress(old.read_bytes())
    new = subprocess.run(["zstd", "-qc"], input=plain, capture_output=True, check=True).stdout
    digests = [hashlib.sha256(data).hexdigest() for data in (new, plain)]
    (repodata / "primary.xml.zst").write_bytes(new)
    (repodata / "repomd.xml").write_text(
        '<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision>'
        f'<data type="primary"><checksum type="sha256">{digests[0]}</checksum>'
        f'<open-checksum type="sha256">{digests[1]}</open-checksum>'
        '<location href="repodata/primary.xml.zst"/></data></repomd>'
    )
    (repodata / "repomd.xml.asc").unlink()
    backend = bench.backend(other.directory.as_uri(), keys=all_key_files(made))
    found = backend.resolve(backend.state(refresh=False), Wanted("image", ("tips",)), ())
    assert [package.name for package in found] == ["tips"]


def with_more(made: Made, place: Path, *specs: Spec) -> Made:
    """The same repository with more packages."""
    other = copied(made, place)
    assert other.key is not None
    sign(build(specs, other.directory / "Packages", place.with_name("work")), other.key)
    index(other.directory, other.key, GROUPS)
    return other


def test_modules(bench: Bench, made: Made, tmp_path: Path) -> None:
    """Of a module, the packages of its default stream are to be had, however old they are."""
    other = with_more(made, tmp_path / "r", *MODULAR)
    (tmp_path / "modules.yaml").write_text(MODULES)
    subprocess.run(
        ["modifyrepo_c", tmp_path / "modules.yaml", other.directory / "repodata"],
        check=True,
        capture_output=True,
    )
    (other.directory / "repodata/repomd.xml.asc").unlink()
    backend = bench.backend(other.directory.as_uri(), keys=all_key_files(made))
    found = backend.resolve(backend.state(refresh=False), Wanted("image", ("modular",)), ())
    assert [package.version for package in found] == ["1.0-1"]


def test_another_architecture(bench: Bench, made: Made) -> None:
    uri = made.directory.as_uri()
    backend = bench.backend(uri, keys=all_key_files(made), architecture="aarch64")
    state = backend.state(refresh=False)
    found = backend.resolve(state, Wanted("image", ("tips",)), ())
    assert [(package.name, package.architecture) for package in found] == [("tips", "noarch")]
    with pytest.raises(InputError, match="kernel-core"):
        backend.resolve(state, Wanted("image", ("kernel-core",)), ())


def test_a_parent_that_is_no_more(bench: Bench, made: Made) -> None:
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    (tips,) = backend.resolve(state, Wanted("image", ("tips",)), ())
    older = replace(tips, version="0.9-1", sha256="0" * 64)
    with pytest.raises(HostError, match="layers below again"):
        backend.resolve(state, Wanted("image", ("needs-tips",)), [older])


def test_scriptlets_see_no_host(bench: Bench, made: Made, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text("of the host\n")
    marker.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        spec = probe(marker, listener.getsockname()[1])
        other = with_more(made, tmp_path / "r", spec)
        backend = bench.backend(other.directory.as_uri(), keys=all_key_files(made))
        state = backend.state(refresh=False)
        bench.add(backend, state, "core")
        layer = bench.add(backend, state, "image", ["probe"])
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    said = (layer / "var/lib/probe").read_text()
    assert "HOME=" in said and "saw" not in said and "reached" not in said
    assert "wrote" not in said and "read a disk" not in said and "remounted" not in said
    assert os.uname().nodename not in said.split() and str(tmp_path) not in said
    (count,) = [int(line.split()[1]) for line in said.splitlines() if line.startswith("processes")]
    assert count < 10
    assert (layer / "var/lib/probe-lua").read_text() == "done\n"


_DRIVER = """
import sys, json
from pathlib import Path
from tests.integration.test_packages_dnf import Bench, Heard
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
place, uri, key = sys.argv[1:]
with Runner() as run:
    heard = Heard()
    bench = Bench(Path(place), Tools(run, heard, Path(place, "scratch")), heard)
    backend = bench.backend(uri, keys=[Path(key)])
    bench.add(backend, backend.state(refresh=False), "core", ["slow"])
"""


def test_killed_in_the_middle(bench: Bench, made: Made) -> None:
    """Nothing of it runs on, and the next run has what was fetched."""
    assert made.key is not None
    words = [str(bench.place), made.directory.as_uri(), str(made.key.public)]
    child = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, *words], cwd=PROJECT, start_new_session=True
    )
    begun = bench.place / "0-core/var/lib/slow-began"
    try:
        end = time.monotonic() + 120
        while not begun.exists():
            assert child.poll() is None and time.monotonic() < end
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    end = time.monotonic() + 30
    while any(str(bench.place) in words for words in command_lines()):
        assert time.monotonic() < end
        time.sleep(0.05)
    remove_tree(find_isolation(bench.tools), bench.place / "0-core", bench.tools)
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    bench.add(backend, backend.state(refresh=False), "core")
    assert list((bench.place / "cache/packages").glob(".*")) == []


def command_lines() -> list[str]:
    """Of all processes but this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if path.parent.name == str(os.getpid()):
            continue
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found


def test_the_image_boots(bench: Bench, made: Made) -> None:
    """By the product's own build of a disk, with its boot check."""
    backend = bench.backend(made.directory.as_uri(), keys=all_key_files(made))
    state = backend.state(refresh=False)
    core_and_base(bench, backend, state)
    bench.add(backend, state, "image", ["tips"], ["core"])
    image = bench.place / "root.img"
    image.touch(0o666)
    os.truncate(image, 512 << 20)
    with bench.seen() as run:
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", "{root}", str(image))
    built = subprocess.run(
        [sys.executable, "-P", "-m", "invoke", "--search-root", str(PROJECT),
         "build", "demo", "--disk", str(image)],
        cwd=bench.place,
        env={**os.environ, "IMAGE_PIPELINE_CATALOGUE": str(bench.place / "catalogue")},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-3000:]
    manifest = json.loads((bench.place / "build/demo/manifest.json").read_text())
    assert manifest
