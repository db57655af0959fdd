"""The upload story over clouds written for the test: order, isolation, pruning, interrupts."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pipeline.builds.registrations import read_record, superseded
from pipeline.builds.workspace import Workspace
from pipeline.clouds.local import LocalCloud
from pipeline.clouds.protocol import Interrupted, PublishOptions
from pipeline.core.errors import CloudError, HostError, InputError
from pipeline.core.events import Meter, Progress, QuietProgress, Unit
from pipeline.core.image import Image, Registration
from pipeline.workflows.publish import confirm, plan, publish
from tests.contract.site import make_images, rebuilt
from tests.fixtures.finished import finished_build

OPTIONS = PublishOptions()


def registered(machine: str, *, kernel: str = "aki-1", generation: str = "") -> Registration:
    return Registration("cloud", "demo", kernel, "ari-1", machine, True, generation)


@dataclass
class Scripted:
    """A cloud that does what the test says; `called` lists its methods in order."""

    name: str
    probe_error: Exception | None = None
    publish_error: Exception | None = None
    gate: threading.Event | None = None
    older: Sequence[Registration] = ()
    withdraw_error: CloudError | None = None
    called: list[str] = field(default_factory=list)
    interrupted: bool = False

    def probe(self, images: Image, options: PublishOptions) -> None:
        self.called.append("probe")
        if self.probe_error:
            raise self.probe_error

    def plan(self, images: Image, options: PublishOptions) -> list[str]:
        return [f"register {images.name}"]

    def publish(self, images: Image, options: PublishOptions, progress: Progress) -> Registration:
        self.called.append("publish")
        if self.publish_error:
            raise self.publish_error
        if self.gate:
            self._wait(self.gate, progress)
        return replace(registered(f"ami-of-{self.name}"), cloud=self.name)

    def _wait(self, gate: threading.Event, progress: Progress) -> None:
        try:
            with progress.task("waiting") as meter:
                while not gate.wait(0.01):
                    meter.advance(0)
        except Interrupted:
            self.interrupted = True
            raise

    def generations(self, name: str) -> list[Registration]:
        self.called.append("generations")
        newest = replace(registered(f"ami-of-{self.name}"), cloud=self.name)
        return [newest, *self.older]

    def withdraw(self, registration: Registration) -> None:
        self.called.append(f"withdraw {registration.machine_id}")
        if self.withdraw_error:
            raise self.withdraw_error


@pytest.fixture
def images(tmp_path: Path) -> Image:
    return make_images(tmp_path / "build", machine_size=8192)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "registrations.json"


def error(cloud: str) -> CloudError:
    return CloudError("register demo on", cloud, why="it is on fire", next_step="Wait")


def test_one_failing_cloud_stops_no_other(images: Image, record: Path) -> None:
    clouds = [
        Scripted("a", probe_error=error("a")),
        Scripted("b", publish_error=error("b")),
        Scripted("c"),
    ]
    outcomes = publish(images, clouds, OPTIONS, record=record, progress=QuietProgress())
    assert [outcome.cloud for outcome in outcomes] == ["a", "b", "c"]
    assert [str(outcome.error) if outcome.error else None for outcome in outcomes] == [
        str(error("a")),
        str(error("b")),
        None,
    ]
    assert outcomes[2].registration is not None
    assert clouds[0].called == ["probe"]
    assert [entry["machine_id"] for entry in read_record(record)] == ["ami-of-c"]


@pytest.mark.parametrize("trouble", [OSError(5, "Input/output error", "a.img"), EOFError("short")])
def test_trouble_of_the_host_on_one_cloud_stops_no_other(
    images: Image, record: Path, trouble: Exception
) -> None:
    clouds = [Scripted("a", publish_error=trouble), Scripted("b")]
    clouds.append(Scripted("c", probe_error=trouble))
    first, second, third = publish(images, clouds, OPTIONS, record=record, progress=QuietProgress())
    for outcome in (first, third):
        assert isinstance(outcome.error, HostError)
        assert str(trouble) in str(outcome.error)
    assert second.registration is not None


def test_every_cloud_is_probed_before_any_publishes(images: Image, record: Path) -> None:
    order: list[str] = []

    class Listed(Scripted):
        def probe(self, images: Image, options: PublishOptions) -> None:
            order.append("probe")

        def publish(
            self, images: Image, options: PublishOptions, progress: Progress
        ) -> Registration:
            order.append("publish")
            return registered(self.name)

    publish(images, [Listed("a"), Listed("b")], OPTIONS, record=record, progress=QuietProgress())
    assert order == ["probe", "probe", "publish", "publish"]


def test_clouds_work_at_the_same_time(images: Image, record: Path) -> None:
    gate = threading.Event()

    class Opener(Scripted):
        def publish(
            self, images: Image, options: PublishOptions, progress: Progress
        ) -> Registration:
            gate.set()
            return registered(self.name)

    clouds = [Scripted("waits", gate=gate), Opener("opens")]
    outcomes = publish(images, clouds, OPTIONS, record=record, progress=QuietProgress())
    assert all(outcome.registration for outcome in outcomes)


def test_an_interrupt_reaches_every_cloud(images: Image, record: Path) -> None:
    stuck = [Scripted("a", gate=threading.Event()), Scripted("b", gate=threading.Event())]
    with pytest.raises(KeyboardInterrupt):
        _interrupting(images, stuck, record)
    assert [cloud.interrupted for cloud in stuck] == [True, True]


def _interrupting(images: Image, clouds: Sequence[Scripted], record: Path) -> None:
    """publish(), with a Ctrl-C while it runs."""
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    try:
        publish(images, clouds, OPTIONS, record=record, progress=QuietProgress())
    finally:
        timer.join()


def test_a_bug_in_one_cloud_is_raised_after_the_others_are_done(
    images: Image, record: Path
) -> None:
    clouds = [Scripted("a", publish_error=ZeroDivisionError("bug")), Scripted("b")]
    with pytest.raises(ZeroDivisionError):
        publish(images, clouds, OPTIONS, record=record, progress=QuietProgress())
    assert [entry["cloud"] for entry in read_record(record)] == ["b"]


def test_a_cloud_named_twice_is_refused(images: Image, record: Path) -> None:
    with pytest.raises(InputError, match="twice"):
        publish(
            images,
            [Scripted("a"), Scripted("a")],
            OPTIONS,
            record=record,
            progress=QuietProgress(),
        )


def test_pruning_keeps_the_newest_and_withdraws_in_order(images: Image, record: Path) -> None:
    older = [registered(f"ami-{n}", generation=f"2026112{n}T000000Z") for n in (3, 2, 1)]
    cloud = Scripted("a", older=older)
    (outcome,) = publish(
        images, [cloud], PublishOptions(keep=2), record=record, progress=QuietProgress()
    )
    assert [gone.machine_id for gone in outcome.withdrawn] == ["ami-2", "ami-1"]
    assert cloud.called[-2:] == ["withdraw ami-2", "withdraw ami-1"]


def test_a_pruning_that_fails_is_a_warning(
    images: Image, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud = Scripted("a", older=[registered("ami-1")], withdraw_error=error("a"))
    (outcome,) = publish(
        images, [cloud], PublishOptions(keep=1), record=record, progress=QuietProgress()
    )
    assert outcome.registration is not None
    assert outcome.withdrawn == ()
    assert "on fire" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keep", "gone"), [(0, ["b", "c"]), (1, ["b", "c"]), (2, ["c"]), (3, []), (9, [])]
)
def test_superseded_never_takes_the_newest(keep: int, gone: list[str]) -> None:
    generations = [registered(name) for name in "abc"]
    assert [g.machine_id for g in superseded(generations, generations[0], keep)] == gone


def test_superseded_keeps_what_was_just_published_even_if_it_is_old() -> None:
    generations = [registered(name) for name in "abc"]
    assert [g.machine_id for g in superseded(generations, generations[2], 1)] == ["a", "b"]


def test_superseded_spares_what_another_upload_made_since() -> None:
    generations = [registered(name, generation=name) for name in "cba"]
    mine = generations[1]
    assert [g.machine_id for g in superseded(generations, mine, 1)] == ["a"]
    found = replace(mine, created=False)  # an old build, uploaded again on purpose
    assert [g.machine_id for g in superseded(generations, found, 1)] == ["c", "a"]


def test_superseded_counts_whole_disks_apart() -> None:
    disk = registered("disk", kernel="")
    generations = [registered("a"), disk, registered("b")]
    assert superseded(generations, disk, 1) == []
    assert [g.machine_id for g in superseded(generations, generations[0], 1)] == ["b"]


def test_plan_changes_nothing(images: Image, tmp_path: Path) -> None:
    catalogue = LocalCloud("local", tmp_path / "catalogue")
    calls = plan(images, [catalogue, Scripted("b")], OPTIONS)
    assert calls["b"] == ["register demo"]
    assert len(calls["local"]) == 5
    assert catalogue.generations("demo") == []


def test_an_unverified_set_is_told(
    images: Image, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unverified = replace(images, checks=())
    publish(unverified, [Scripted("a")], OPTIONS, record=record, progress=QuietProgress())
    assert "not boot-checked" in capsys.readouterr().err


def test_replace_on_the_local_catalogue_updates_the_record(
    images: Image, record: Path, tmp_path: Path
) -> None:
    catalogue = LocalCloud("local", tmp_path / "catalogue")
    options = PublishOptions(keep=1)
    for build in (images, rebuilt(images, seed=5)):
        publish(build, [catalogue], options, record=record, progress=QuietProgress())
    (left,) = catalogue.generations("demo")
    assert [entry["machine_id"] for entry in read_record(record)] == [left.machine_id]


def test_files_are_compared_with_the_manifest_once_unless_they_are_the_very_ones(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "small"
    manifest = finished_build(directory)
    image = manifest.image(directory)
    workspace = Workspace(directory)
    hashed: list[str] = []

    class Watching(QuietProgress):
        @contextmanager
        def task(
            self, label: str, total: int | None = None, unit: Unit = "bytes"
        ) -> Iterator[Meter]:
            hashed.append(label)
            with super().task(label, total, unit) as meter:
                yield meter

    def look() -> list[str]:
        hashed.clear()
        confirm(image, directory, whole_disk=False, progress=Watching())
        return sorted(hashed)

    everything = ["hashing small-initrd", "hashing small-vmlinuz", "hashing small.img"]
    assert look() == everything, "nobody wrote down which files these are"
    with workspace.open():
        workspace.remember("image", "key", [a.path for a in image.artifacts], {})
    assert look() == []
    path = image.machine.path
    path.write_bytes(path.read_bytes())
    assert look() == ["hashing small.img"]
    path.write_bytes(b"R" + path.read_bytes()[1:])
    with pytest.raises(InputError, match="no longer what the build made"):
        look()
    confirm(image, directory, whole_disk=True, progress=QuietProgress())
