"""Install trees from real web servers on the loopback: mirrors, proxies, checksums, the cache."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline.builders.installer.answers import render
from pipeline.builders.installer.trees import ChecksumError, TreeError, obtain
from pipeline.builders.recipes import load_recipes
from pipeline.core.events import QuietProgress
from pipeline.core.recipe import Recipe
from pipeline.core.resources import PROJECT
from pipeline.host.context import Tools
from pipeline.host.programs import Runner

pytestmark = pytest.mark.integration

NONCE = "n0nce" * 5


class Warnings(QuietProgress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Mirror)
        server.requests.append((self.path, self.headers.get("Authorization", "")))
        self.path = self.path.removeprefix(f"http://{server.behind}")
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Mirror(http.server.ThreadingHTTPServer):
    """A web server for a directory; as a proxy it serves the requests for `behind` itself."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(directory)))
        self.requests: list[tuple[str, str]] = []
        self.behind = "mirror.invalid"
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    root = tmp_path / "www"
    root.mkdir()
    with Mirror(root) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def progress() -> Warnings:
    return Warnings()


@pytest.fixture
def tools(tmp_path: Path, progress: Warnings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tools]:
    monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(tmp_path / "cache"))
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with Runner(tmp_path / "commands.log") as runner:
        yield Tools(runner, progress, tmp_path)


def make_tree(directory: Path, *, break_sum: bool = False) -> Path:
    files = {"images/pxeboot/vmlinuz": b"kernel" * 999, "images/pxeboot/initrd.img": b"i" * 99999}
    lines = ["[general]", "version = 15", "[images-x86_64]"]
    lines += ["kernel = images/pxeboot/vmlinuz", "initrd = images/pxeboot/initrd.img"]
    lines += ["[checksums]"]
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        lines.append(f"{name} = sha256:{hashlib.sha256(data).hexdigest()}")
    (directory / ".treeinfo").write_text("\n".join(lines) + "\n")
    if break_sum:
        (directory / "images/pxeboot/initrd.img").write_bytes(b"tampered with")
    return directory


def recipe(*trees: str) -> Recipe:
    demo = load_recipes(PROJECT / "kickstart" / "recipes.toml")["demo"]
    return demo.model_copy(update={"trees": trees})


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_mirror_without_the_tree_falls_back(
    mirror: Mirror, tmp_path: Path, tools: Tools, progress: Warnings
) -> None:
    make_tree(tmp_path / "www" / "tree")
    tree = obtain(recipe(f"{mirror.url}/gone", f"{mirror.url}/tree/"), tools)
    assert (tree.path / tree.kernel).read_bytes() == b"kernel" * 999
    assert tree.url == f"{mirror.url}/tree".replace("127.0.0.1", "10.0.2.2")
    assert tree.variables["tree"] == tree.url
    assert any("/gone" in text and "404" in text for text in progress.warnings)


def test_a_dead_server_falls_back(
    mirror: Mirror, tmp_path: Path, tools: Tools, progress: Warnings
) -> None:
    make_tree(tmp_path / "www" / "tree")
    dead = f"http://127.0.0.1:{unused_port()}"
    obtain(recipe(dead, f"{mirror.url}/tree"), tools)
    assert any(dead in text and "refused" in text for text in progress.warnings)


def test_when_no_mirror_works_each_is_named(mirror: Mirror, tools: Tools) -> None:
    with pytest.raises(TreeError) as caught:
        obtain(recipe(f"{mirror.url}/one", f"{mirror.url}/two"), tools)
    assert "/one" in str(caught.value)
    assert "/two" in str(caught.value)


def test_a_wrong_checksum_is_refused(mirror: Mirror, tmp_path: Path, tools: Tools) -> None:
    make_tree(tmp_path / "www" / "tree", break_sum=True)
    with pytest.raises(ChecksumError, match=r"initrd\.img"):
        obtain(recipe(f"{mirror.url}/tree"), tools)
    assert list((tmp_path / "cache" / "trees").iterdir()) == []


def test_a_wrong_checksum_in_a_directory_is_refused(tmp_path: Path, tools: Tools) -> None:
    with pytest.raises(ChecksumError, match=r"initrd\.img"):
        obtain(recipe(str(make_tree(tmp_path / "tree", break_sum=True))), tools)


def test_a_tampered_mirror_is_passed_over(
    mirror: Mirror, tmp_path: Path, tools: Tools, progress: Warnings
) -> None:
    make_tree(tmp_path / "www" / "bad", break_sum=True)
    make_tree(tmp_path / "www" / "good")
    tree = obtain(recipe(f"{mirror.url}/bad", f"{mirror.url}/good"), tools)
    assert "/good" in tree.url
    assert any("sha256" in text for text in progress.warnings)


def test_the_cache_is_used_and_checked(mirror: Mirror, tmp_path: Path, tools: Tools) -> None:
    make_tree(tmp_path / "www" / "tree")
    where = recipe(f"{mirror.url}/tree")
    tree = obtain(where, tools)
    mirror.requests.clear()
    assert obtain(where, tools) == tree
    assert mirror.paths() == ["/tree/.treeinfo"]
    (tree.path / tree.kernel).write_bytes(b"rotten")
    obtain(where, tools)
    assert (tree.path / tree.kernel).read_bytes() == b"kernel" * 999


def test_the_proxy_is_used_and_told_to_the_guest(
    mirror: Mirror, tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "www" / "tree")
    monkeypatch.setenv("http_proxy", mirror.url)
    tree = obtain(recipe("http://mirror.invalid/tree"), tools)
    assert "http://mirror.invalid/tree/.treeinfo" in mirror.paths()
    seen = mirror.url.replace("127.0.0.1", "10.0.2.2")
    assert tree.variables["proxy"] == seen
    assert tree.variables["proxy_option"] == f" --proxy={seen}"


def test_no_proxy_is_honoured(
    mirror: Mirror, tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "www" / "tree")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    tree = obtain(recipe(f"{mirror.url}/tree"), tools)
    assert tree.variables["proxy"] == ""


def test_a_dead_proxy_is_given_up_for_host_and_guest(
    mirror: Mirror,
    tmp_path: Path,
    tools: Tools,
    progress: Warnings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_tree(tmp_path / "www" / "tree")
    monkeypatch.setenv("http_proxy", f"http://ann:hunter2@127.0.0.1:{unused_port()}")
    tree = obtain(recipe(f"{mirror.url}/tree"), tools)
    assert tree.variables["proxy"] == ""
    dead = [text for text in progress.warnings if "proxy" in text]
    assert len(dead) == 1
    assert "going on without it" in dead[0]
    assert "hunter2" not in dead[0]


def test_credentials_go_into_a_header_and_nowhere_else(
    mirror: Mirror, tmp_path: Path, tools: Tools, progress: Warnings
) -> None:
    make_tree(tmp_path / "www" / "tree")
    place = mirror.url.replace("//", "//ann:hunter2@")
    with pytest.raises(TreeError) as caught:
        obtain(recipe(f"{place}/gone"), tools)
    assert "hunter2" not in str(caught.value) + "".join(progress.warnings)
    assert "ann:****@" in str(caught.value)
    tree = obtain(recipe(f"{place}/tree"), tools)
    assert mirror.requests[-1][1].startswith("Basic ")
    assert "hunter2" not in repr(tree)
    assert tools.run.secrets.mask("hunter2") == "****"
    answers = render(
        recipe(f"{place}/tree").model_copy(
            update={"answers": write(tmp_path, "url --url={{tree}}\npart / --size=9\npoweroff\n")}
        ),
        nonce=NONCE,
        overrides={},
        builtins=tree.variables,
    )
    assert "hunter2" in answers.text
    assert "hunter2" not in answers.saved


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "answers.ks"
    path.write_text(text)
    return path
