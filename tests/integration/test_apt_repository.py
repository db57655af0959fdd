"""The apt backend against repositories of our own: what is signed, what is not, what breaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from pipeline.builders.packages.apt import open_backend
from pipeline.builders.packages.protocol import Backend, Package, Wanted
from pipeline.core.errors import HostError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.packages import PackageSystem
from pipeline.core.packages import Repository as Named
from pipeline.core.resources import PROJECT
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.apt_repository import Key, Mirror, Repository, make_key, serve, stop_agent

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Key]]:
    place = tmp_path_factory.mktemp("keys")
    made = {
        "right": make_key(place, "right"),
        "wrong": make_key(place, "wrong"),
        "old": make_key(place, "old", expires="1d", made="20240101T000000"),
    }
    yield made
    for key in made.values():
        stop_agent(key)


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner(log=tmp_path / "programs.log") as runner:
        yield Tools(runner, QuietProgress(), tmp_path / "scratch")


@pytest.fixture
def repository(tmp_path: Path, keys: dict[str, Key]) -> Repository:
    made = Repository(tmp_path / "repository", keys["right"])
    made.add("base-thing", Essential="yes", Priority="required")
    made.add("apt", Depends="library (>= 1)")
    made.add("library", "1:2-3")
    made.add("wants", Depends="library", Recommends="extra")
    made.add("extra", Task="many")
    made.add("clash", Conflicts="extra")
    made.add("broken", Depends="no-such-thing")
    made.publish()
    return made


@pytest.fixture
def mirror(repository: Repository) -> Iterator[Mirror]:
    with serve(repository.directory) as mirror:
        yield mirror


def backend(tools: Tools, key: Key, *urls: str, cache: str = "cache", **more: object) -> Backend:
    named = Named(
        name="ours", urls=urls, keys=(key.file,), suites=("stable",), components=("main",)
    )
    fields = {"distribution": "debian", "release": "stable", "repositories": (named,)}
    system = PackageSystem.model_validate(fields | more)
    return open_backend(system, tools, tools.scratch.parent / cache)


def refused(apt: Backend) -> str:
    with pytest.raises(InputError) as caught:
        apt.state(refresh=True)
    assert "ours" in str(caught.value)
    assert caught.value.next_step
    return caught.value.why


def test_signed_packages_come_with_all_that_is_known(
    tools: Tools, keys: dict[str, Key], mirror: Mirror
) -> None:
    apt = backend(tools, keys["right"], mirror.url)
    state = apt.state(refresh=False)
    assert len(state.digest) == 64
    core = apt.resolve(state, Wanted("core"), ())
    assert [p.name for p in core] == ["apt", "base-thing", "library"]
    assert [p.version for p in core] == ["1", "1", "1:2-3"]
    assert core[2].url == "pool/library_1:2-3_all.deb"
    assert core[2].source == "library 1:2-3"
    files = apt.fetch(state, core)
    assert [f.name for f in files] == [f"{p.sha256}.deb" for p in core]
    assert [f.stat().st_size for f in files] == [p.size for p in core]
    image = apt.resolve(state, Wanted("image", ("wants",)), core)
    assert [p.name for p in image] == ["wants"]


def test_what_is_known_asks_no_mirror(tools: Tools, keys: dict[str, Key], mirror: Mirror) -> None:
    apt = backend(tools, keys["right"], mirror.url)
    core = apt.resolve(apt.state(refresh=False), Wanted("core"), ())
    apt.fetch(apt.state(refresh=False), core)
    mirror.requests.clear()
    again = backend(tools, keys["right"], mirror.url)
    state = again.state(refresh=False)
    assert again.resolve(state, Wanted("core"), ()) == core
    again.fetch(state, core)
    assert mirror.requests == []


def test_a_state_stays_until_it_is_asked_for_anew(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    apt = backend(tools, keys["right"], mirror.url)
    first = apt.state(refresh=False)
    core = apt.resolve(first, Wanted("core"), ())
    repository.add("library", "1:4")
    repository.add("newer", Depends="library (>= 1:4)")
    repository.publish()
    assert apt.state(refresh=False) == first
    second = apt.state(refresh=True)
    assert second.digest != first.digest
    # A layer below was made of the earlier state, whose version no index has any more.
    repository.debs = [d for d in repository.debs if "library_1:2-3" not in d.name]
    repository.publish()
    third = apt.state(refresh=True)
    added = apt.resolve(third, Wanted("image", ("newer",)), core)
    assert [(p.name, p.version) for p in added] == [("library", "1:4"), ("newer", "1")]
    assert apt.resolve(first, Wanted("core"), ()) == core, "the earlier state still answers"


def test_a_failed_refresh_leaves_the_state_as_it_was(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    apt = backend(tools, keys["right"], mirror.url)
    state = apt.state(refresh=False)
    repository.publish(sign="none")
    refused(apt)
    assert apt.state(refresh=False) == state
    assert apt.resolve(state, Wanted("core"), ())


def test_a_detached_signature_will_do(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    repository.publish(sign="detached")
    apt = backend(tools, keys["right"], mirror.url)
    assert apt.resolve(apt.state(refresh=True), Wanted("core"), ())


def test_an_armoured_key_will_do(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, tmp_path: Path
) -> None:
    armoured = tmp_path / "key.txt"
    armoured.write_bytes(keys["right"].run("--armor", "--export"))
    key = Key(keys["right"].home, armoured)
    assert backend(tools, key, mirror.url).state(refresh=True)


@pytest.mark.parametrize("sign", ["none", "detached"])
def test_unsigned(
    sign: str, tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    repository.publish(sign=sign)
    (repository.directory / "dists/stable/Release.gpg").unlink(missing_ok=True)
    assert "not signed" in refused(backend(tools, keys["right"], mirror.url))


def test_signed_by_another_key(tools: Tools, keys: dict[str, Key], mirror: Mirror) -> None:
    assert "not among its keys" in refused(backend(tools, keys["wrong"], mirror.url))


def test_an_expired_key(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    repository.key = keys["old"]
    repository.publish()
    assert "expired" in refused(backend(tools, keys["old"], mirror.url))


def test_past_its_date(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    repository.publish(valid=-3600)
    assert "Valid-Until" in refused(backend(tools, keys["right"], mirror.url))
    kept = backend(tools, keys["right"], mirror.url, check_valid_until=False)
    assert kept.state(refresh=True)


def test_a_weak_digest(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    repository.publish(digest="SHA1")
    refused(backend(tools, keys["right"], mirror.url))


def test_a_changed_release_file(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    file = repository.directory / "dists/stable/InRelease"
    file.write_bytes(file.read_bytes().replace(b"Origin: T", b"Origin: U"))
    assert "does not fit" in refused(backend(tools, keys["right"], mirror.url))


def test_a_changed_index_is_a_mirror_that_fails(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    for file in (repository.directory / "dists/stable/main/binary-amd64").iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(HostError, match=r"ours .*Hash Sum mismatch"):
        backend(tools, keys["right"], mirror.url).state(refresh=True)


def test_a_component_that_is_not_there(tools: Tools, keys: dict[str, Key], mirror: Mirror) -> None:
    named = Named(name="ours", urls=(mirror.url,), keys=(keys["right"].file,),
                  suites=("stable",), components=("main", "contirb"))  # fmt: skip
    assert "contirb" in refused(backend(tools, keys["right"], mirror.url, repositories=(named,)))


def test_an_architecture_that_is_not_there(
    tools: Tools, keys: dict[str, Key], mirror: Mirror
) -> None:
    why = refused(backend(tools, keys["right"], mirror.url, architecture="aarch64"))
    assert "aarch64" in why or "arm64" in why


def test_the_next_mirror_answers(tools: Tools, keys: dict[str, Key], mirror: Mirror) -> None:
    apt = backend(tools, keys["right"], NOWHERE, mirror.url)
    state = apt.state(refresh=True)
    assert apt.fetch(state, apt.resolve(state, Wanted("core"), ()))


def test_the_next_mirror_answers_where_one_is_in_the_middle_of_an_update(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository, tmp_path: Path
) -> None:
    stale = tmp_path / "stale"
    subprocess.run(["cp", "-a", repository.directory, stale], check=True)
    for file in (stale / "dists/stable/main/binary-amd64").iterdir():
        file.write_bytes(file.read_bytes() + b"\n")
    with serve(stale) as first:
        apt = backend(tools, keys["right"], first.url, mirror.url)
        assert apt.state(refresh=True)


def test_no_mirror_answers(tools: Tools, keys: dict[str, Key]) -> None:
    with pytest.raises(HostError, match="ours") as caught:
        backend(tools, keys["right"], NOWHERE).state(refresh=True)
    assert "refused" in caught.value.why


def test_a_changed_package_is_not_taken(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    apt = backend(tools, keys["right"], mirror.url)
    state = apt.state(refresh=True)
    core = apt.resolve(state, Wanted("core"), ())
    for deb in repository.debs:
        deb.write_bytes(deb.read_bytes()[:-1] + b"!")
    with pytest.raises(HostError, match="mismatch"):
        apt.fetch(state, core)
    assert not list((tools.scratch.parent / "cache/apt/debs").glob("??/*.deb"))


def test_a_damaged_file_of_the_cache_is_fetched_anew(
    tools: Tools, keys: dict[str, Key], mirror: Mirror
) -> None:
    apt = backend(tools, keys["right"], mirror.url)
    state = apt.state(refresh=True)
    core = apt.resolve(state, Wanted("core"), ())
    file = apt.fetch(state, core)[0]
    whole = file.read_bytes()
    file.write_bytes(bytes(len(whole)))
    assert apt.fetch(state, core)[0].read_bytes() == whole


def test_what_a_killed_download_left_is_gone_on_with(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, repository: Repository
) -> None:
    big = repository.add("big", files=1 << 20)
    repository.publish()
    half, ranges = threading.Event(), []

    def stop_halfway(handler: SimpleHTTPRequestHandler) -> bool:
        if "big" not in handler.path:
            return True
        data = big.read_bytes()
        if wanted := handler.headers.get("Range"):
            ranges.append(wanted)
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            handler.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            handler.send_header("Content-Length", str(len(data) - begin))
            handler.end_headers()
            handler.wfile.write(data[begin:])
            return False
        handler.send_response(200)
        handler.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: 1 << 19])
        handler.wfile.flush()
        half.set()
        handler.rfile.read(1)  # until the client is gone
        handler.close_connection = True
        return False

    mirror.before = stop_halfway
    apt = backend(tools, keys["right"], mirror.url)
    state = apt.state(refresh=True)
    (package,) = apt.resolve(state, Wanted("image", ("big",)), ())
    words = [str(tools.scratch.parent), str(keys["right"].file), mirror.url]
    child = subprocess.Popen([sys.executable, "-c", _FETCH, *words], cwd=PROJECT)
    try:
        assert half.wait(60)
        partial = tools.scratch.parent / "cache/apt/debs/partial" / package.sha256
        until = 600
        while not (partial.exists() and partial.stat().st_size) and until:
            until -= 1
            threading.Event().wait(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    (file,) = apt.fetch(state, [package])
    assert file.read_bytes() == big.read_bytes()
    assert ranges, "the second run asked only for what was missing"


_FETCH = """
import sys
from pathlib import Path
from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.builders.packages.protocol import Wanted
from tests.fixtures.apt_repository import Key
from tests.integration.test_apt_repository import backend
place, key, url = sys.argv[1:]
with Runner() as run:
    apt = backend(Tools(run, QuietProgress(), Path(place, "scratch")), Key(Path(), Path(key)), url)
    state = apt.state(refresh=False)
    apt.fetch(state, apt.resolve(state, Wanted("image", ("big",)), ()))
"""


def test_a_snapshot_is_part_of_the_address(
    tools: Tools, keys: dict[str, Key], repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "archive").mkdir()
    repository.directory.rename(tmp_path / "archive/20260101T000000Z")
    with serve(tmp_path / "archive") as mirror:
        url = f"{mirror.url}/{{snapshot}}/"
        apt = backend(tools, keys["right"], url, snapshot="20260101T000000Z")
        state = apt.state(refresh=True)
        assert apt.fetch(state, apt.resolve(state, Wanted("core"), ()))
        with pytest.raises(InputError, match="snapshot"):
            backend(tools, keys["right"], url).check()


def test_a_password_stays_secret(
    tools: Tools, keys: dict[str, Key], mirror: Mirror, tmp_path: Path
) -> None:
    seen = []

    def account(handler: SimpleHTTPRequestHandler) -> bool:
        seen.append(handler.headers.get("Authorization", ""))
        return True

    mirror.before = account
    url = mirror.url.replace("//", "//me:s3cr3t-w0rd@")
    apt = backend(tools, keys["right"], url)
    state = apt.state(refresh=True)
    apt.fetch(state, apt.resolve(state, Wanted("core"), ()))
    assert all(seen)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"s3cr3t-w0rd" not in file.read_bytes(), file


def wrong(apt: Backend, wanted: Wanted, *parents: Package) -> InputError:
    state = apt.state(refresh=False)
    with pytest.raises(InputError) as caught:
        apt.resolve(state, wanted, parents)
    return caught.value


def test_what_cannot_be_had(tools: Tools, keys: dict[str, Key], mirror: Mirror) -> None:
    apt = backend(tools, keys["right"], mirror.url)
    assert "did you mean library" in wrong(apt, Wanted("image", ("libary",))).why
    assert "did you mean many" in wrong(apt, Wanted("image", (), ("manny",))).why
    assert "no-such-thing" in wrong(apt, Wanted("image", ("broken",))).why
    below = apt.resolve(apt.state(refresh=False), Wanted("base", ("extra",)), ())
    assert "would remove extra" in wrong(apt, Wanted("image", ("clash",)), *below).why
    assert "no name" in wrong(apt, Wanted("image", ("--purge",))).why


def test_what_is_left_out_is_left_out_or_missed(
    tools: Tools, keys: dict[str, Key], mirror: Mirror
) -> None:
    apt = backend(tools, keys["right"], mirror.url)
    found = wrong(apt, Wanted("image", ("wants",), (), ("library",)))
    assert (found.subject, found.why) == ("library", "wants needs it")
    found = wrong(apt, Wanted("image", ("extra",), (), ("extra",)))
    assert "wants it" in found.why


def test_tasks_and_weak_dependencies(tools: Tools, keys: dict[str, Key], mirror: Mirror) -> None:
    apt = backend(tools, keys["right"], mirror.url)
    state = apt.state(refresh=False)
    assert [p.name for p in apt.resolve(state, Wanted("image", (), ("many",)), ())] == ["extra"]
    weak = backend(tools, keys["right"], mirror.url, weak_dependencies=True)
    state = weak.state(refresh=False)
    added = weak.resolve(state, Wanted("image", ("wants",)), ())
    assert [p.name for p in added] == ["extra", "library", "wants"]
    added = weak.resolve(state, Wanted("image", ("wants",), (), ("extra",)), ())
    assert [p.name for p in added] == ["library", "wants"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk(tools: Tools, keys: dict[str, Key], mirror: Mirror, tmp_path: Path) -> None:
    small = tmp_path / "cache"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "small", small], check=True)
    try:
        (small / "filler").write_bytes(bytes(150_000))
        apt = backend(tools, keys["right"], mirror.url)
        with pytest.raises(HostError, match=r"space|full"):
            apt.state(refresh=True)
        (small / "filler").unlink()
    finally:
        subprocess.run(["umount", small], check=True)
