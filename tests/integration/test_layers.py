"""The store of layers: whole or not there, made once, kept while it is used."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.builders.packages.layers import archive as layer_archive
from pipeline.builders.packages.layers import records as layers
from pipeline.builders.packages.layers.garbage import collect, in_use
from pipeline.builders.packages.layers.records import Filled, Layer, Wish
from pipeline.builders.packages.layers.store import LayerStore
from pipeline.builders.packages.protocol import Package
from pipeline.core.errors import HostError, InputError, InstallError
from pipeline.core.events import QuietProgress
from pipeline.core.resources import PROJECT
from pipeline.host.context import Tools
from pipeline.host.isolation import Isolation, Root, find_isolation, own, remove_tree, run_mapped
from pipeline.host.programs import Runner
from pipeline.workflows import layers as workflow
from tests.fixtures.isolated import PYTHON, TEAM, as_builder
from tests.unit.cli.test_tasks import invoke

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CORE = Wish("core-0001", "core", "", "apt", ("debian", "bookworm"))
BASE = Wish("base-0001", "base", "core-0001", "apt", ("openssh-server",))
EPOCH = 1_700_000_000
PACKAGES = (Package("base-files", "12.4", "amd64", "ab" * 32, 70, "pool/b.deb", "main"),)
TREE = """
import os, sys
upper = sys.argv[1]
os.makedirs(f"{upper}/etc/deep")
for name, mode, owner in (("shadow", 0o640, 42), ("motd", 0o644, 0), ("su", 0o4755, 0)):
    path = f"{upper}/etc/{name}"
    with open(path, "w") as file:
        file.write(name * 1000)
    os.chown(path, 0, owner)
    os.chmod(path, mode)
    os.utime(path, ns=(10**18 + 7, 10**18 + 7))
os.link(f"{upper}/etc/motd", f"{upper}/etc/deep/motd")
os.symlink("/etc/motd", f"{upper}/etc/link")
os.mkfifo(f"{upper}/etc/fifo")
os.mknod(f"{upper}/etc/gone", 0o20000, 0)
os.setxattr(f"{upper}/etc/deep", "user.overlay.opaque", b"y")
os.setxattr(f"{upper}/etc/su", "security.capability", b"\\1\\0\\0\\2\\1" + bytes(15))
"""


class Said(QuietProgress):
    """What the user was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def tools(tmp_path: Path, said: Said) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner() as runner:
        yield Tools(runner, said, tmp_path / "scratch")


@pytest.fixture
def isolation(tools: Tools) -> Isolation:
    return find_isolation(tools)


@pytest.fixture
def store(tmp_path: Path, tools: Tools, isolation: Isolation) -> Iterator[LayerStore]:
    yield LayerStore(isolation, tools, tmp_path / "layers", tmp_path / "others")
    remove_tree(isolation, tmp_path / "layers", tools)


def script(store: LayerStore, text: str, *words: str | Path) -> str:
    argv = [PYTHON, "-I", "-S", "-c", text, *words]
    return run_mapped(store.isolation, argv, tools=store.tools, timeout=60).text


def maker(store: LayerStore, calls: list[str] | None = None) -> Callable[[Root], Filled]:
    def make(root: Root) -> Filled:
        if calls is not None:
            calls.append(root.upper.parent.name)
        script(store, TREE, root.upper)
        return Filled(PACKAGES, EPOCH)

    return make


def have(
    store: LayerStore, wish: Wish = CORE, parents: Sequence[Layer] = (), by: str = "web"
) -> Layer:
    with store.use(wish, parents, maker(store), used_by=by) as layer:
        return layer


def fill(store: LayerStore, make: Callable[[Root], Filled]) -> None:
    with store.use(CORE, (), make, used_by="web"):
        pass


def names(store: LayerStore) -> list[str]:
    return sorted(path.name for path in store.place.iterdir() if path.name != layers.LOCKS)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_all_of_it_as_an_ordinary_user() -> None:
    argv = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    argv += ["-k", "not noticed_and_mended"]  # one way for everybody, and many of it
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        done = as_builder(place / "home", [*argv, f"--basetemp={place}/home/t"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_a_layer_is_made_once_and_says_what_it_is(store: LayerStore) -> None:
    calls: list[str] = []
    with store.use(CORE, (), maker(store, calls), used_by="web") as layer:
        assert in_use(store, layer)
    with store.use(CORE, (), maker(store, calls), used_by="mail") as again:
        assert again == layer
    assert len(calls) == 1 and calls[0].endswith(".tmp") and names(store) == ["core-0001"]
    assert layer.wish == CORE and layer.packages == PACKAGES and layer.stacked
    assert (layer.shape.files, layer.shape.bytes) == (4, 12000)
    assert layer.first_id == store.isolation.first_id
    assert set(layers.users(layer)) == {"web", "mail"} and not in_use(store, layer)
    assert {path.name for path in layer.directory.iterdir()} == {
        "tree",
        "layer.json",
        "used-by.json",
    }
    assert (layer.tree / "etc/motd").stat().st_uid == store.isolation.first_id


def test_a_layer_lies_on_its_parents(store: LayerStore) -> None:
    core = have(store)

    def make(root: Root) -> Filled:
        assert root.lower == (core.tree,)
        assert root.work.parent == root.upper.parent and list(root.work.iterdir()) == []
        return Filled((), EPOCH)

    with store.use(BASE, (core,), make, used_by="web") as base:
        assert base.wish.parent == core.wish.key


def test_a_failed_layer_leaves_nothing(store: LayerStore) -> None:
    def make(root: Root) -> Filled:
        script(store, TREE, root.upper)
        raise InstallError("install", why="no such package")

    with pytest.raises(InstallError, match="no such package"):
        fill(store, make)
    assert names(store) == []


@pytest.mark.parametrize("key", ["../../etc", "a/b", "short", "", "x" * 200, "a.b.c.d.e", "locks"])
def test_a_key_that_is_no_name_is_refused(key: str) -> None:
    with pytest.raises(InputError):
        Wish(key, "core", "", "apt")


DAMAGE = {
    "content": "open(f'{t}/etc/motd', 'r+').write('X')",
    "missing": "os.remove(f'{t}/etc/shadow')",
    "added": "open(f'{t}/etc/new', 'w')",
    "mode": "os.chmod(f'{t}/etc/shadow', 0o644)",
    "owner": "os.chown(f'{t}/etc/motd', 7, 7)",
    "whiteout": "os.remove(f'{t}/etc/gone')",
    "opaque": "os.removexattr(f'{t}/etc/deep', 'user.overlay.opaque')",
    "tree": "os.rename(t, t + '2')",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_noticed_and_mended(store: LayerStore, said: Said, how: str) -> None:
    layer = have(store)
    assert store.damage(layer, full=True) == ""
    script(store, f"import os, sys; t = sys.argv[1]; {DAMAGE[how]}", layer.tree)
    again = have(store)
    assert store.damage(again, full=True) == "" and again.shape == layer.shape
    assert any("core-0001 is damaged" in line for line in said.lines)
    assert any(name.startswith("core-0001.") and name.endswith(".bad") for name in names(store))


def test_bits_that_rot_in_silence_are_found_by_reading(store: LayerStore, said: Said) -> None:
    layer = have(store)
    rot = (
        "import os, sys; p = sys.argv[1] + '/etc/motd'; s = os.stat(p); f = open(p, 'r+b')\n"
        "f.seek(99); f.write(b'#'); f.close(); os.utime(p, ns=(s.st_mtime_ns, s.st_mtime_ns))"
    )
    script(store, rot, layer.tree)
    assert store.damage(layer) == ""
    (found,) = workflow.verify(store)
    assert found.damage == "its files are not those that were stored"
    assert "DAMAGED" in "\n".join(workflow.lines([found], store.place))
    assert store.all() == [] and any("set aside" in line for line in said.lines)
    have(store)
    assert [one.damage for one in workflow.verify(store)] == [""]


def test_a_host_that_cannot_look_damages_no_layer(store: LayerStore, tmp_path: Path) -> None:
    layer = have(store)
    # A namespace of no ids is refused by the kernel, as one too many is.
    none = replace(store.isolation, count=0)
    unable = LayerStore(none, store.tools, store.place, tmp_path / "others")
    with pytest.raises(HostError):
        unable.damage(replace(layer, count=0))
    assert store.damage(layer) == ""


def test_a_record_that_cannot_be_read_is_no_layer(store: LayerStore) -> None:
    layer = have(store)
    (layer.directory / "layer.json").write_text("{")
    assert store.all() == [] and store.find(CORE.key) is None
    assert have(store).shape == layer.shape
    # A record of another layer says nothing of this one.
    data = json.loads((store.place / "core-0001/layer.json").read_text())
    data["wish"]["key"] = "core-0002"
    (store.place / "core-0001/layer.json").write_text(json.dumps(data))
    assert store.find(CORE.key) is None


def test_an_archive_goes_from_one_user_to_another(
    store: LayerStore, tmp_path: Path, said: Said
) -> None:
    layer = have(store)
    first = layer_archive.export(layer, tmp_path / "a", store.isolation, store.tools)
    second = layer_archive.export(layer, tmp_path / "b", store.isolation, store.tools)
    assert first.name == f"core-0001.{layer.shape.digest}.tar"
    assert first.read_bytes() == second.read_bytes()
    other = LayerStore(store.isolation, store.tools, tmp_path / "layers" / "o", tmp_path / "a")

    def refuse(root: Root) -> Filled:
        raise AssertionError("it was to be unpacked")

    with other.use(CORE, (), refuse, used_by="web") as unpacked:
        assert unpacked.shape == layer.shape and unpacked.packages == PACKAGES
    assert any("was unpacked from" in line for line in said.lines)


@pytest.mark.parametrize("how", ["cut", "flipped", "other", "empty"])
def test_a_bad_archive_is_told_and_the_layer_made(
    store: LayerStore, tmp_path: Path, said: Said, how: str
) -> None:
    layer = have(store)
    path = layer_archive.export(layer, tmp_path / "others", store.isolation, store.tools)
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[len(content) // 2 :]
    elif how == "flipped":
        content[content.index(b"motdmotd")] ^= 1
    elif how == "other":
        content[content.index(b"core-0001")] ^= 1
    else:
        content.clear()
    path.write_bytes(content)
    store.delete(layer.directory)
    again = have(store)
    assert again.shape == layer.shape
    assert any("is of no use" in line for line in said.lines)
    assert names(store) == ["core-0001"]


def test_no_member_of_an_archive_leads_out(store: LayerStore, tmp_path: Path) -> None:
    import io
    import tarfile

    layer = have(store)
    path = layer_archive.export(layer, tmp_path / "others", store.isolation, store.tools)
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    with tarfile.open(path) as good:
        head = good.next()
        assert head is not None
        record = good.extractfile(head)
        assert record is not None
        with tarfile.open(tmp_path / "bad.tar", "w", format=tarfile.PAX_FORMAT) as bad:
            bad.addfile(head, io.BytesIO(record.read()))
            for name, kind, link in (
                ("tree", tarfile.DIRTYPE, ""),
                ("tree/way", tarfile.SYMTYPE, str(outside)),
                ("tree/way/file", tarfile.REGTYPE, ""),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.mode = kind, link, 0o755
                info.pax_headers = {"LAYER.mtime": "0"}
                bad.addfile(info)
    (tmp_path / "bad.tar").rename(path)
    store.delete(layer.directory)
    assert have(store).shape == layer.shape
    assert list(outside.iterdir()) == []


def test_layers_of_others_are_used_where_the_ids_fit(
    store: LayerStore, tmp_path: Path, isolation: Isolation
) -> None:
    layer = have(store)
    mine = LayerStore(isolation, store.tools, tmp_path / "layers" / "mine", store.place)
    with mine.use(CORE, (), maker(store), used_by="web") as theirs:
        assert theirs == layer
    assert not mine.place.exists()
    # A damaged one of others is left to them, and made here.
    mine.set_aside(CORE.key, "as the test says")
    with mine.use(CORE, (), maker(store), used_by="web") as own_one:
        assert own_one.directory == mine.place / CORE.key
    remove_tree(isolation, mine.place, store.tools)
    foreign = Isolation("user namespace", isolation.first_id + 1, isolation.count - 1, True)
    assert not layer.fits(foreign)
    assert LayerStore(foreign, store.tools, mine.place, store.place)._of_others(CORE) is None


def aged(layer: Layer, days: float) -> None:
    when = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    (layer.directory / layers.USED).write_text(json.dumps({"web": when}))
    record = json.loads((layer.directory / layers.RECORD).read_text())
    (layer.directory / layers.RECORD).write_text(json.dumps(record | {"created": when}))


def test_garbage(store: LayerStore) -> None:
    core = have(store)
    base = have(store, BASE, (core,))
    other = have(store, Wish("core-0002", "core", "", "dnf"))
    for layer, days in ((core, 90), (base, 1), (other, 70)):
        aged(layer, days)
    plan = collect(store, most=1 << 40, days=60, dry_run=True)
    assert [(one.key, one.reason) for one in plan] == [("core-0002", "unused")]
    assert len(names(store)) == 3
    # The old core has a child that is kept; of two that may go, the one used last goes last.
    assert collect(store, most=1 << 40, days=60) == plan
    assert names(store) == ["base-0001", "core-0001"]
    plan = collect(store, most=20000, days=60, dry_run=True)
    assert [(one.key, one.reason) for one in plan] == [
        ("base-0001", "space"),
        ("core-0001", "unused"),
    ]
    with store.use(BASE, (core,), maker(store), used_by="web"):
        assert collect(store, most=0, days=0) == []
    assert {one.key for one in collect(store, most=0, days=60)} == {"base-0001", "core-0001"}
    assert names(store) == []


def test_leftovers_go_but_not_what_is_being_made(store: LayerStore) -> None:
    during: list[list[str]] = []

    def make(root: Root) -> Filled:
        during.append([one.key for one in collect(store, most=0, days=0)])
        return Filled((), EPOCH)

    store.place.mkdir()
    left = store.stage(Wish("core-0003", "core", "", "apt"))
    script(store, "import os, sys; os.chown(sys.argv[1], 0, 0)", left / "tree")
    fill(store, make)
    assert during == [["core-0003"]] and names(store) == ["core-0001"]


def test_what_a_killed_look_at_the_host_left_goes_once_it_is_old(store: LayerStore) -> None:
    store.place.mkdir()
    for name in ("isolation-old", "isolation-new"):
        (store.place / name / "upper").mkdir(parents=True)
        own(store.isolation, (store.place / name / "upper",), store.tools)
    os.utime(store.place / "isolation-old", (EPOCH, EPOCH))
    assert [one.path.name for one in collect(store, most=0, days=0)] == ["isolation-old"]
    assert names(store) == ["isolation-new"]


def test_the_listing(store: LayerStore) -> None:
    core = have(store, by="web")
    have(store, BASE, (core,), by="mail")
    found = workflow.list_layers(store)
    assert [(one.key, one.kind, one.used_by) for one in found] == [
        ("core-0001", "core", ("web",)),
        ("base-0001", "base", ("mail",)),
    ]
    text = "\n".join(workflow.lines(found, store.place))
    assert "apt debian bookworm" in text and "by mail" in text and "2 layers" in text


PROGRAM = """
import sys, time
from pathlib import Path
from pipeline.builders.packages.layers.store import LayerStore
from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.isolation import find_isolation
from pipeline.host.programs import Runner
from tests.integration.test_layers import CORE, EPOCH, TREE, script, Filled, PACKAGES
class Said(QuietProgress):
    def say(self, text): print(text, flush=True)
place = Path(sys.argv[1])
place.mkdir(exist_ok=True)
with Runner() as run:
    tools = Tools(run, Said(), place)
    store = LayerStore(find_isolation(tools), tools, place.parent / "layers", place / "none")
    def make(root):
        print("making", flush=True)
        sys.stdin.readline()
        script(store, TREE, root.upper)
        return Filled(PACKAGES, EPOCH)
    print("ready", flush=True)
    with store.use(CORE, (), make, used_by=sys.argv[2]) as layer:
        print("have", layer.shape.digest, flush=True)
"""


def started(place: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PYTHON, "-c", PROGRAM, place / name, name],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_builders_of_one_layer(store: LayerStore, tmp_path: Path) -> None:
    with started(tmp_path, "one") as first, started(tmp_path, "two") as second:
        assert line(first) == line(second) == "ready"
        words = {first: line(first)}
        words[second] = line(second)
        maker_, waiter = sorted(words, key=lambda one: words[one] != "making")
        assert words[maker_] == "making"
        assert words[waiter].startswith("waiting for the core layer core-0001: process")
        assert maker_.stdin is not None
        maker_.stdin.write("go\n")
        maker_.stdin.flush()
        assert line(maker_) == line(waiter) != ""
        first.communicate()
        second.communicate()
    (layer,) = store.all()
    assert set(layers.users(layer)) == {"one", "two"}


def test_kills_leave_a_whole_layer_or_none(store: LayerStore, tmp_path: Path) -> None:
    seed = random.Random(7)
    whole = 0
    for number in range(8):
        with started(tmp_path, f"run{number}") as run:
            assert run.stdin is not None
            run.stdin.write("go\n" * 3)
            run.stdin.flush()
            assert line(run) == "ready"
            threading.Event().wait(seed.uniform(0, 1.2))
            run.send_signal(signal.SIGKILL)
        wait_for_the_end(store)
        if (store.place / CORE.key).exists():
            layer = store.find(CORE.key)
            assert layer is not None and store.damage(layer, full=True) == ""
            whole += 1
            store.delete(layer.directory)
    have(store)
    assert names(store) == ["core-0001"]
    assert whole < 8


def wait_for_the_end(store: LayerStore) -> None:
    """Until the killed run's lock is free: its programs hold it no longer than they live."""
    from pipeline.host.locks import exclusive

    with exclusive(store.lock(CORE.key), "the layer", wait=30):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk(tools: Tools, isolation: Isolation, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "none", place], check=True)
    try:
        store = LayerStore(isolation, tools, place / "layers", tmp_path / "others")
        writer = "import sys; open(sys.argv[1] + '/big', 'wb').write(bytes(8 << 20))"

        def make(root: Root) -> Filled:
            script(store, writer, root.upper)
            return Filled((), EPOCH)

        with pytest.raises(HostError, match="its file system is full") as caught:
            fill(store, make)
        assert "layers --prune" in caught.value.next_step
        assert names(store) == []
        have(store)
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_layer_that_is_used_is_not_set_aside(store: LayerStore) -> None:
    layer = have(store)
    with store.use(CORE, (), maker(store), used_by="web"):
        script(store, "import os, sys; os.remove(sys.argv[1] + '/etc/su')", layer.tree)
        begun = time.monotonic()
        (found,) = workflow.verify(store)
        assert found.damage and time.monotonic() - begun < 60
        assert names(store) == ["core-0001"]


@pytest.mark.skipif(TEAM not in os.getgroups(), reason="of the ordinary user of a team")
def test_a_place_of_a_team(tools: Tools, isolation: Isolation, tmp_path: Path) -> None:
    """New files there are of a group that no namespace maps."""
    place = tmp_path / "team"
    place.mkdir()
    os.chown(place, -1, TEAM)
    place.chmod(0o2770)
    store = LayerStore(isolation, tools, place / "layers", tmp_path / "others")
    layer = have(store)
    assert layer.directory.stat().st_gid == TEAM
    assert [one.reason for one in collect(store, most=0, days=60)] == ["space"]
    remove_tree(isolation, place / "layers", tools)
    assert list(place.iterdir()) == []


def command(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return invoke("layers", *words, cwd=PROJECT, **environment)


def test_the_command(store: LayerStore, tmp_path: Path) -> None:
    layer = have(store)
    where = {"IMAGE_PIPELINE_LAYERS": str(store.place)}
    (listed,) = json.loads(command(where, "--json").stdout)
    assert (listed["key"], listed["bytes"], listed["in_use"]) == ("core-0001", 12000, False)
    shown = command(where).stdout
    assert "core" in shown and "apt debian bookworm" in shown and "by web" in shown
    script(store, "import os, sys; os.remove(sys.argv[1] + '/etc/su')", layer.tree)
    checked = command(where, "--verify")
    assert checked.returncode == 5 and "DAMAGED" in checked.stdout
    have(store)
    limits = where | {"IMAGE_PIPELINE_LAYERS_GIB": "0"}
    plan = command(limits, "--prune", "--dry-run").stdout
    assert plan.count("would delete core-0001") == 2 and len(names(store)) == 2
    gone = json.loads(command(limits, "--prune", "--json").stdout)
    assert {one["reason"] for one in gone} == {"leftover", "space"} and names(store) == []
    assert command(where, "--dry-run").returncode == 2
    assert command(where | {"IMAGE_PIPELINE_LAYERS_DAYS": "x"}, "--prune").returncode == 2
    none = command({"IMAGE_PIPELINE_LAYERS": str(tmp_path / "none")})
    assert "no layers in" in none.stdout and not (tmp_path / "none").exists()
