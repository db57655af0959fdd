"""Installs with the stand-in installer that succeed, and that fail in every way we know.

Each failure must end in bounded time with its own error, evidence on disk, and nothing running.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.builders import demo
from pipeline.builders.installer import Limits, errors, install, libvirt_connection
from pipeline.builders.installer.answers import render
from pipeline.builders.installer.trees import Tree
from pipeline.builders.recipes import load_recipes
from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration, DiskImage
from pipeline.core.recipe import Recipe
from pipeline.core.resources import PROJECT
from pipeline.host import hypervisor
from pipeline.host.context import Tools
from pipeline.host.programs import Runner

pytestmark = pytest.mark.integration

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PATIENCE = 240.0
"""Seconds a guest may take to reach %pre under TCG when the host is shared with other work."""
LIMITS = Limits(wall=PATIENCE, quiet=PATIENCE)
DEMO = load_recipes(PROJECT / "kickstart" / "recipes.toml")["demo"]
SCRIPT = Path(__file__).with_name("install_once.py")


@dataclasses.dataclass
class Bench:
    """One build's place. The recipe's name is unique, so that its processes can be found."""

    directory: Path
    tools: Tools
    tree: Tree
    acceleration: Acceleration
    recipe: Recipe

    @property
    def evidence(self) -> Path:
        return self.directory / "evidence"

    @property
    def out(self) -> Path:
        return self.directory / "disk.img"

    def kickstart(self, *, pre: str = "", replace: tuple[str, str] = ("", "")) -> None:
        """Give the recipe a kickstart of its own: the demo's with a %pre, or with other words."""
        text = DEMO.answers.read_text().replace(*replace)
        path = self.directory / "answers.ks"
        path.write_text(text + (f"\n%pre\n{pre}\n%end\n" if pre else ""))
        self.recipe = self.recipe.model_copy(update={"answers": path})

    def install(self, limits: Limits = LIMITS) -> DiskImage:
        answers = render(
            self.recipe,
            nonce=secrets.token_hex(16),
            overrides={},
            builtins=self.tree.variables,
        )
        return install(
            self.recipe,
            answers,
            self.tree,
            self.out,
            self.acceleration,
            self.tools,
            evidence=self.evidence,
            limits=limits,
        )

    def processes(self, word: str = "") -> list[int]:
        """Processes of this build: its name is an argument of virt-install and of qemu."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if f"{self.recipe.name}-" in line and word in line:
                    found.append(int(entry.name))
        return found

    def console(self) -> str:
        return (self.evidence / "console.log").read_text()

    def assert_nothing_left(self) -> None:
        assert self.processes() == []
        assert not self.out.exists()
        assert list(self.tools.scratch.iterdir()) == []

    def assert_evidence(self, failure: errors.InstallFailure) -> None:
        assert self.evidence / "console.log" in failure.evidence
        assert all(path.stat().st_size for path in failure.evidence)
        assert str(self.evidence / "console.log") in str(failure)

    @property
    def has_picture(self) -> bool:
        path = self.evidence / "screen.png"
        return path.exists() and path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.fixture(scope="module")
def acceleration(tmp_path_factory: pytest.TempPathFactory) -> Acceleration:
    with Runner() as runner:
        return hypervisor.acceleration(
            Tools(runner, QuietProgress(), tmp_path_factory.mktemp("probe"))
        )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    with Runner() as runner:
        scratch = tmp_path_factory.mktemp("scratch")
        made = demo.make_tree(
            tmp_path_factory.mktemp("tree"), Tools(runner, QuietProgress(), scratch)
        )
    return Tree(made.path, DEMO.kernel, DEMO.initrd, made.identity)


@pytest.fixture
def bench(tmp_path: Path, tree: Tree, acceleration: Acceleration) -> Iterator[Bench]:
    yield from make_bench(tmp_path, tree, acceleration)


def make_bench(
    tmp_path: Path, tree: Tree, acceleration: Acceleration
) -> Generator[Bench, None, None]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Runner(tmp_path / "commands.log") as runner:
        name = f"t{secrets.token_hex(4)}"
        yield Bench(
            tmp_path,
            Tools(runner, QuietProgress(), scratch),
            tree,
            acceleration,
            DEMO.model_copy(update={"name": name, "memory_mib": 384}),
        )


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def started(bench: Bench) -> bool:
    log = bench.evidence / "console.log"
    return log.exists() and "IMAGE-PIPELINE-STARTED" in log.read_text()


def test_success(bench: Bench) -> None:
    disk = bench.install()
    assert disk == DiskImage(bench.out, "raw")
    assert bench.out.stat().st_size == bench.recipe.disk_gib << 30
    assert 0 < bench.out.stat().st_blocks * 512 < bench.out.stat().st_size // 2
    assert bench.processes() == []
    assert list(bench.tools.scratch.iterdir()) == []
    console = bench.console()
    assert "Linux version" in console
    assert "IMAGE-PIPELINE-DONE ****" in console
    phases = [
        p["phase"] for p in json.loads((bench.evidence / "install.json").read_text())["phases"]
    ]
    assert [p for p in phases if p in demo.PHASES] == [*demo.PHASES]


@pytest.fixture
def heir() -> Iterator[Callable[[], list[str]]]:
    """This process inherits orphans and reaps none, like process 1 of many a container; who they
    were.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    own = set(adopted())
    yield lambda: [(Path("/proc") / pid / "comm").read_text() for pid in set(adopted()) - own]
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    for pid in set(adopted()) - own:
        os.waitpid(int(pid), os.WNOHANG)


def adopted() -> Iterator[str]:
    for listing in Path("/proc/self/task").glob("*/children"):
        yield from listing.read_text().split()


def test_a_guest_that_ended_is_no_zombie_of_process_1(
    bench: Bench, heir: Callable[[], list[str]]
) -> None:
    """libvirt waits more than a minute for a zombie to go away."""
    bench.install()
    assert not [name for name in heir() if name.startswith("qemu")]


@pytest.mark.parametrize("leave", ["poweroff -f", "reboot -f"])
def test_an_abort_is_no_success(leave: str, bench: Bench) -> None:
    bench.kickstart(pre=leave)
    with pytest.raises(errors.AbortedError) as caught:
        bench.install()
    bench.assert_evidence(caught.value)
    bench.assert_nothing_left()


def test_answers_that_are_never_read(bench: Bench, tree: Tree) -> None:
    bench.recipe = bench.recipe.model_copy(update={"answers_argument": "kickstart"})
    with pytest.raises(errors.InstallFailure) as caught:
        bench.install()
    assert isinstance(caught.value, errors.FatalMessageError | errors.AnswersUnreadError)
    bench.assert_nothing_left()


def test_answers_over_http(bench: Bench) -> None:
    bench.kickstart(pre="poweroff -f")
    bench.recipe = bench.recipe.model_copy(update={"answers_by": "http"})
    with pytest.raises(errors.AbortedError):
        bench.install()
    assert "installer: Fetching the kickstart" in bench.console()
    assert "IMAGE-PIPELINE-STARTED" in bench.console()
    bench.assert_nothing_left()


def test_a_success_without_an_installed_disk(bench: Bench) -> None:
    """An installer that runs every script and writes nothing: the marker alone is no proof."""
    marker = "grep -o 'IMAGE-PIPELINE-DONE [0-9a-f]*' /run/ks/anaconda-ks.cfg >/dev/ttyS0"
    bench.kickstart(pre=f"{marker}\npoweroff -f")
    with pytest.raises(errors.EmptyDiskError) as caught:
        bench.install()
    bench.assert_evidence(caught.value)
    bench.assert_nothing_left()


def test_an_installer_that_starts_again_and_again(bench: Bench) -> None:
    """By kexec, say: a reset would end the guest, for virt-install has on_reboot=destroy."""
    again = "echo 'Linux version 2.6.38 (again)' >/dev/ttyS0; sleep 1"
    bench.kickstart(pre=f"while :; do {again}; done")
    with pytest.raises(errors.RebootLoopError) as caught:
        bench.install()
    assert "kernel started" in caught.value.why
    bench.assert_evidence(caught.value)
    bench.assert_nothing_left()


@pytest.fixture
def small_place(bench: Bench) -> Iterator[Path]:
    """A file system of 24 MiB where the build's disk goes."""
    place = bench.directory / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_the_hosts_file_system_fills_up(bench: Bench, small_place: Path) -> None:
    bench.kickstart(pre="dd if=/dev/zero of=/dev/vda bs=1M count=64 conv=fsync; sleep 100000")
    bench.tools = dataclasses.replace(bench.tools, scratch=small_place)
    with pytest.raises(errors.DiskSpaceError, match="full") as caught:
        bench.install()
    bench.assert_evidence(caught.value)
    bench.assert_nothing_left()


def test_a_kernel_panic(bench: Bench) -> None:
    bench.kickstart(pre="echo c >/proc/sysrq-trigger")
    with pytest.raises(errors.PanicError) as caught:
        bench.install()
    assert any("sysrq triggered crash" in line for line in caught.value.lines)
    assert bench.has_picture
    bench.assert_evidence(caught.value)
    bench.assert_nothing_left()


def test_a_silent_hang(bench: Bench) -> None:
    bench.kickstart(pre="sleep 100000")
    begun = time.monotonic()
    with pytest.raises(errors.HangError) as caught:
        bench.install(Limits(wall=PATIENCE, quiet=20))
    assert time.monotonic() - begun < PATIENCE
    assert bench.has_picture
    assert "Running %pre" in caught.value.why
    bench.assert_evidence(caught.value)
    bench.assert_nothing_left()


def test_a_guest_that_is_busy_for_too_long(bench: Bench) -> None:
    bench.kickstart(pre="while :; do echo working >/dev/ttyS0; sleep 1; done")
    with pytest.raises(errors.TimeLimitError):
        bench.install(Limits(wall=30, quiet=20))
    bench.assert_nothing_left()


def test_a_disk_that_is_too_small(bench: Bench) -> None:
    bench.kickstart(replace=("--size=512", "--size=5120"))
    with pytest.raises(errors.FatalMessageError) as caught:
        bench.install()
    assert demo.FATAL.strip() in str(caught.value)
    bench.assert_evidence(caught.value)
    bench.assert_nothing_left()


def test_a_fatal_line(bench: Bench) -> None:
    bench.kickstart(pre=f"echo '{demo.FATAL}made up' >/dev/ttyS0; sleep 100000")
    with pytest.raises(errors.FatalMessageError, match="made up"):
        bench.install()
    assert bench.has_picture
    bench.assert_nothing_left()


def killer(bench: Bench, word: str, number: signal.Signals) -> threading.Thread:
    """Kill this build's processes whose command line has `word`, once %pre has begun."""

    def kill() -> None:
        if until(lambda: started(bench)):
            for pid in bench.processes(word):
                os.kill(pid, number)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_guest_is_killed(bench: Bench, number: signal.Signals) -> None:
    bench.kickstart(pre="sleep 100000")
    thread = killer(bench, "\0-uuid\0", number)
    with pytest.raises(errors.GuestKilledError) as caught:
        bench.install()
    thread.join()
    bench.assert_evidence(caught.value)
    bench.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_virt_install_is_killed(bench: Bench, number: signal.Signals) -> None:
    bench.kickstart(pre="sleep 100000")
    thread = killer(bench, "virt_install_process.py", number)
    with pytest.raises(errors.LibvirtLostError) as caught:
        bench.install()
    thread.join()
    bench.assert_evidence(caught.value)
    bench.assert_nothing_left()


def test_virt_install_cannot_start_the_guest(bench: Bench) -> None:
    bench.recipe = bench.recipe.model_copy(update={"memory_mib": 1 << 40})
    with pytest.raises(errors.VirtInstallError) as caught:
        bench.install()
    assert bench.evidence / "virt-install.log" in caught.value.evidence
    bench.assert_nothing_left()


def test_two_builds_of_one_recipe_at_once(
    tmp_path: Path, tree: Tree, acceleration: Acceleration
) -> None:
    makers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        makers.append(make_bench(tmp_path / name, tree, acceleration))
    benches = [next(maker) for maker in makers]
    for bench in benches:
        bench.recipe = benches[0].recipe
        bench.kickstart(pre="poweroff -f")

    def abort(bench: Bench) -> str:
        with pytest.raises(errors.AbortedError):
            bench.install()
        return bench.console()

    with ThreadPoolExecutor() as pool:
        consoles = list(pool.map(abort, benches))
    assert all("IMAGE-PIPELINE-STARTED" in console for console in consoles)
    for bench, maker in zip(benches, makers, strict=True):
        bench.assert_nothing_left()
        maker.close()


@dataclasses.dataclass
class Process:
    """install_once.py, run by the user and through the door that a test wants."""

    popen: subprocess.Popen[str]
    bench: Bench
    runtime: Path

    def starts(self) -> bool:
        """Wait for %pre; the outcome, if it ended before."""
        until(lambda: started(self.bench) or self.popen.poll() is not None)
        assert self.popen.poll() is None, self.popen.communicate()
        return started(self.bench)

    def outcome(self) -> dict[str, str]:
        stdout, stderr = self.popen.communicate(timeout=PATIENCE)
        assert self.popen.returncode == 0, stderr
        found: dict[str, str] = json.loads(stdout)
        return found


@pytest.fixture
def run_apart(bench: Bench) -> Iterator[Callable[..., Process]]:
    """Starts an install of the bench's recipe in another process."""
    running: list[Process] = []

    def run(*, door: str = "embed", user: str = "") -> Process:
        # Not below pytest's directory, which is closed to other users.
        private = Path("/tmp") / bench.recipe.name
        place, runtime = private / "place", private / "run"
        for directory in (private, place, runtime):
            directory.mkdir()
        shutil.copytree(bench.tree.path, private / "tree", copy_function=os.link)
        shutil.copy(bench.recipe.answers, private / "answers.ks")
        table = {
            "description": "a test",
            "answers": "answers.ks",
            "installer": "stand-in",
            "release": "F15",
            "answers_argument": "ks",
            "trees": [str(private / "tree")],
            "disk_gib": 1,
            "memory_mib": 384,
            "install_minutes": 3,  # less than PATIENCE: what a hanging guest said is shown
            "quiet_minutes": 4,
        }
        lines = [f"[{bench.recipe.name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
        recipes = private / "recipes.toml"
        recipes.write_text("\n".join(lines) + "\n")
        argv: list[str | Path] = [sys.executable, SCRIPT, recipes, bench.recipe.name, place]
        if user and os.geteuid() == 0:
            for path in (place, runtime):
                shutil.chown(path, user)
            argv = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", *argv]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "PYTHONPATH": str(PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_RUNTIME_DIR": str(runtime),
            "IMAGE_PIPELINE_CACHE": str(place / "cache"),
            "IMAGE_PIPELINE_LIBVIRT": door,
            hypervisor.VARIABLE: bench.acceleration.accelerator,
        }
        popen = subprocess.Popen(
            argv,
            env=environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        bench.directory = place
        running.append(Process(popen, bench, runtime))
        return running[-1]

    yield run
    for process in running:
        process.popen.kill()
        process.popen.communicate()
        until(lambda: bench.processes() == [], 30)
        shutil.rmtree(process.runtime.parent)


def children(pid: int, name: str) -> list[int]:
    """Direct children of a process whose program has the name."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(n) for n in listed if Path(f"/proc/{n}/comm").read_text().strip() == name]


def test_the_pipeline_is_killed(bench: Bench, run_apart: Callable[..., Process]) -> None:
    bench.kickstart(pre="sleep 100000")
    process = run_apart()
    assert process.starts()
    assert bench.processes("\0-uuid\0")
    process.popen.kill()
    assert until(lambda: bench.processes() == [], 30)
    assert until(lambda: list(process.runtime.iterdir()) == [], 30)
    assert not bench.out.exists()


@pytest.mark.parametrize("door", ["embed", "session"])
def test_an_ordinary_user(door: str, bench: Bench, run_apart: Callable[..., Process]) -> None:
    bench.kickstart(pre="poweroff -f")
    process = run_apart(door=door, user="nobody")
    assert process.outcome()["error"] == "AbortedError"
    assert "IMAGE-PIPELINE-STARTED" in bench.console()
    assert bench.processes() == []


def test_the_systems_daemon_where_nothing_runs_it(
    bench: Bench, run_apart: Callable[..., Process]
) -> None:
    bench.kickstart(pre="poweroff -f")
    process = run_apart(door="system")
    expected = "AbortedError" if os.geteuid() == 0 else "HostError"
    assert process.outcome()["error"] == expected
    assert bench.processes() == []
    if os.geteuid() == 0:
        assert not libvirt_connection.answers(Path("/run/libvirt/libvirt-sock"))


def test_the_libvirt_daemon_is_killed(bench: Bench, run_apart: Callable[..., Process]) -> None:
    bench.kickstart(pre="sleep 100000")
    process = run_apart(door="session", user="nobody")
    assert process.starts()
    daemons = children(process.popen.pid, "libvirtd")
    assert len(daemons) == 1
    os.kill(daemons[0], signal.SIGKILL)
    outcome = process.outcome()
    assert outcome["error"] == "LibvirtLostError"
    assert "libvirtd died" in outcome["text"]
    assert bench.processes() == []
    assert not bench.out.exists()
