"""The install tree as made from this host, looked at by cpio, tar, ldd and virt-install."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.builders.demo import InstallTree, make_tree, tree, tree_identity
from pipeline.builders.demo.contents import host_files
from pipeline.core.errors import HostError
from pipeline.core.events import QuietProgress
from pipeline.core.resources import PROJECT
from pipeline.host.context import Tools
from pipeline.host.programs import Runner

pytestmark = pytest.mark.integration

SECONDS = 120  # for one program on a host that other tests keep busy


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def made(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> InstallTree:
    return make_tree(tmp_path_factory.mktemp("trees"), tools)


def output(*argv: str | Path, stdin: Path | None = None) -> str:
    with (stdin or Path(os.devnull)).open("rb") as file:
        return subprocess.run(
            argv, stdin=file, capture_output=True, timeout=SECONDS, check=True
        ).stdout.decode()


def test_the_tree_is_whole_and_its_checksums_are_right(made: InstallTree) -> None:
    treeinfo = (made.path / ".treeinfo").read_text()
    sums = re.findall(r"^(\S+) = sha256:(\w+)$", treeinfo, re.MULTILINE)
    assert [name for name, _ in sums] == ["images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"]
    for name, digest in sums:
        assert hashlib.sha256((made.path / name).read_bytes()).hexdigest() == digest


def test_the_identity_is_known_without_building(made: InstallTree) -> None:
    assert tree_identity() == made.identity


def test_a_whole_tree_is_reused(made: InstallTree, tools: Tools) -> None:
    before = (made.path / "images/pxeboot/initrd.img").stat()
    assert make_tree(made.path.parent, tools) == made
    after = (made.path / "images/pxeboot/initrd.img").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [p.name for p in made.path.parent.iterdir()] == [made.path.name]


def test_the_same_host_gives_the_same_bytes(
    made: InstallTree, tools: Tools, tmp_path: Path
) -> None:
    again = make_tree(tmp_path, tools)
    for name in (".treeinfo", "images/pxeboot/initrd.img"):
        assert (again.path / name).read_bytes() == (made.path / name).read_bytes()


def test_a_changed_template_is_a_changed_identity(
    made: InstallTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tree.TEMPLATES, tmp_path / "standin", symlinks=True)
    monkeypatch.setattr(tree, "TEMPLATES", tmp_path / "standin")
    assert tree_identity() == made.identity
    with (tmp_path / "standin/installer/init").open("a") as script:
        script.write("# more\n")
    assert tree_identity() != made.identity


def test_two_builds_at_once_make_one_tree(tools: Tools, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        scratches = [tmp_path / "one", tmp_path / "two"]
        for scratch in scratches:
            scratch.mkdir()
        place = tmp_path / "trees"
        jobs = [
            pool.submit(make_tree, place, Tools(tools.run, QuietProgress(), scratch))
            for scratch in scratches
        ]
        made = {job.result() for job in jobs}
    assert [tree.path for tree in made] == list(place.iterdir())


def test_a_tree_that_cannot_be_written_names_the_place(tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=r"install tree .*/file/\w+: File exists"):
        make_tree(tmp_path / "file", tools)


def test_an_ordinary_user_can_make_it(made: InstallTree) -> None:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        directory.chmod(0o777)
        code = (
            "import sys; from pathlib import Path\n"
            "from pipeline.core.events import QuietProgress\n"
            "from pipeline.host.programs import Runner\n"
            "from pipeline.host.context import Tools\n"
            "from pipeline.builders.demo import make_tree\n"
            "place = Path(sys.argv[1])\n"
            "with Runner() as runner:\n"
            "    tools = Tools(runner, QuietProgress(), place)\n"
            "    print(make_tree(place / 'trees', tools).identity)\n"
        )
        drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
        made_by_user = subprocess.run(
            [*(drop if os.geteuid() == 0 else []), sys.executable, "-B", "-c", code, place],
            cwd=PROJECT,
            env={"PATH": os.environ["PATH"], "HOME": place},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert made_by_user.stdout.strip() == made.identity, made_by_user.stderr


def test_cpio_and_tar_read_what_was_written(made: InstallTree, tmp_path: Path) -> None:
    initrd = made.path / "images/pxeboot/initrd.img"
    names = output("cpio", "-t", "--quiet", stdin=initrd).split("\n")
    assert {"init", "payload.tar", "sbin/lvm", "lib/installer/main"} <= set(names)
    with initrd.open("rb") as archive:
        subprocess.run(
            ["cpio", "-i", "--quiet", "payload.tar"],
            stdin=archive,
            cwd=tmp_path,
            timeout=SECONDS,
            check=True,
        )
    listed = output("tar", "-tvf", tmp_path / "payload.tar")
    assert re.search(r"^-rw------- root/root +\d+ .* etc/shadow$", listed, re.MULTILINE)
    assert re.search(r" etc/rc\.local -> rc\.d/rc\.local$", listed, re.MULTILINE)
    version = host_files().kernel.version
    assert f" boot/initramfs-{version}.img\n" in listed


def test_the_libraries_are_those_that_ldd_finds() -> None:
    host = host_files()
    found = {str(path.resolve()) for path in host.libraries.values()}
    wanted = set()
    for name, program in host.programs.items():
        if name != "busybox":  # static
            listed = output("ldd", program)
            wanted |= {str(Path(p).resolve()) for p in re.findall(r"=> (/\S+)", listed)}
    assert found == wanted


def test_virt_install_takes_it_for_fedora_15(made: InstallTree, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, 1 << 30)
    # libvirt's test driver and a dry run: no daemon and no guest.
    argv = ["virt-install", "--connect", "test:///default", "--dry-run", "--debug"]
    argv += ["--name", "demo", "--memory", "640", "--network", "none", "--graphics", "none"]
    argv += ["--osinfo", "detect=on,require=on", "--noautoconsole"]
    argv += ["--disk", f"path={disk},format=raw", "--location", str(made.path)]
    argv += ["--initrd-inject", str(PROJECT / "kickstart/demo.ks")]
    argv += ["--extra-args", "ks=file:/demo.ks console=ttyS0"]
    tried = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert tried.returncode == 0, tried.stderr
    assert "detect_distro returned=fedora15" in tried.stderr
