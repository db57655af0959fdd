"""One test body over each cloud: what pipeline/clouds/protocol.py promises, on the real server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.clouds.protocol import Cloud, Interrupted, PublishOptions
from pipeline.core.errors import CloudError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Image, Registration
from pipeline.workflows.publish import publish
from tests.contract.observers import Observed
from tests.contract.site import Site, child_environment, make_images, rebuilt

OPTIONS = PublishOptions()
_CHILD_SECONDS = 240.0  # a child takes seconds; the machine may be ten times slower under load


@pytest.fixture
def images(tmp_path: Path) -> Image:
    return make_images(tmp_path / "build")


def register(site: Site, images: Image, options: PublishOptions = OPTIONS) -> Registration:
    return site.open().publish(images, options, QuietProgress())


def assert_triple(site: Site, images: Image, registration: Registration) -> None:
    """The triple is visible, whole, linked and holds exactly our bytes."""
    seen = {image.id: image for image in site.visible()}
    machine = seen[registration.machine_id]
    assert machine.kernel_id == registration.kernel_id
    assert machine.ramdisk_id == registration.ramdisk_id
    ids = (registration.kernel_id, registration.ramdisk_id, registration.machine_id)
    assert len(set(ids)) == 3
    for image_id, file in zip(ids, images.triple, strict=True):
        assert seen[image_id].role in ("", str(file.role))
        data = site.data(image_id)
        assert data is None or data == file.path.read_bytes()


def assert_no_partial(site: Site) -> None:
    """What is visible is whole: every machine image has its kernel and ramdisk, and they it."""
    visible = site.visible()
    machines = [image for image in visible if image.role == "machine"]
    linked = {image.kernel_id for image in machines} | {image.ramdisk_id for image in machines}
    assert linked - {""} <= {image.id for image in site.everything()}
    assert {image.id for image in visible if image.role in ("kernel", "ramdisk")} <= linked


def assert_tidy(site: Site) -> None:
    """Nothing is hidden or left over, and all of it is whole."""
    assert set(site.everything()) == set(site.visible())
    assert_no_partial(site)


def test_publishes_a_linked_triple(site: Site, images: Image) -> None:
    registration = register(site, images)
    assert registration.created
    assert registration.name == "demo"
    assert registration.cloud == site.open().name
    assert_triple(site, images, registration)
    assert len(site.everything()) == 3


def test_an_image_for_aarch64_is_taken_and_found_again(site: Site, images: Image) -> None:
    arm = replace(images, architecture="aarch64")
    registration = register(site, arm)
    assert registration.created
    assert_triple(site, arm, registration)
    again = register(site, arm)
    assert (again.machine_id, again.created) == (registration.machine_id, False)


def test_a_rerun_returns_the_same_ids_and_makes_nothing(site: Site, images: Image) -> None:
    first = register(site, images)
    before = site.everything()
    again = register(site, images)
    assert again == replace(first, created=False)
    assert site.everything() == before


def test_a_changed_build_is_a_new_generation(site: Site, images: Image) -> None:
    first = register(site, images)
    changed = rebuilt(images, seed=2)
    second = register(site, changed)
    assert second.created
    assert second.machine_id != first.machine_id
    assert second.generation > first.generation
    assert_triple(site, images, first)
    assert_triple(site, changed, second)
    found = site.open().generations("demo")
    assert found == [replace(second, created=False), replace(first, created=False)]
    assert site.open().generations("dem") == []


def test_foreign_images_of_the_name_are_left_alone(site: Site, images: Image) -> None:
    theirs = site.foreign("demo")
    first = register(site, images)
    assert first.machine_id != theirs
    publish_once(site, rebuilt(images, seed=2), PublishOptions(keep=1))
    assert theirs in {image.id for image in site.everything()}
    assert first.machine_id not in {image.id for image in site.everything()}
    for registration in site.open().generations("demo"):
        site.open().withdraw(registration)
    assert {image.id for image in site.everything()} == {theirs}


def test_withdraw_takes_one_triple_and_can_be_repeated(site: Site, images: Image) -> None:
    first = register(site, images)
    second = register(site, rebuilt(images, seed=2))
    cloud = site.open()
    cloud.withdraw(first)
    cloud.withdraw(first)
    assert cloud.generations("demo") == [replace(second, created=False)]
    assert_triple(site, rebuilt(images, seed=2), second)
    assert len(site.everything()) == 3


def test_a_withdrawn_build_can_be_published_again(site: Site, images: Image) -> None:
    site.open().withdraw(register(site, images))
    again = register(site, images)
    assert again.created
    assert_triple(site, images, again)


def test_keep_prunes_own_older_generations(site: Site, images: Image) -> None:
    builds = [images, *(rebuilt(images, seed) for seed in (2, 3))]
    registered = [register(site, build) for build in builds]
    again = publish_once(site, builds[2], PublishOptions(keep=2))
    assert not again.created
    assert [g.machine_id for g in site.open().generations("demo")] == [
        registered[2].machine_id,
        registered[1].machine_id,
    ]
    assert_tidy(site)


def publish_once(site: Site, images: Image, options: PublishOptions) -> Registration:
    record = images.machine.path.with_name("registrations.json")
    (outcome,) = publish(images, [site.open()], options, record=record, progress=QuietProgress())
    assert outcome.error is None
    assert outcome.registration is not None
    return outcome.registration


def test_a_file_changed_since_the_build_is_refused(site: Site, images: Image) -> None:
    with images.machine.path.open("r+b") as file:
        file.seek(100)
        file.write(b"flipped")
    with pytest.raises(CloudError, match="sha256"):
        register(site, images)
    assert site.visible() == []


def test_plan_changes_nothing_and_tells_a_rerun_apart(site: Site, images: Image) -> None:
    cloud = site.open()
    cloud.probe(images, OPTIONS)
    before = cloud.plan(images, OPTIONS)
    assert len(before) > 1
    assert site.everything() == []
    register(site, images)
    after = cloud.plan(images, OPTIONS)
    assert len(after) < len(before)


def test_the_check_says_where_and_makes_nothing(site: Site) -> None:
    assert site.open().check()
    assert site.everything() == []


def test_a_rerun_without_options_plans_nothing(site: Site, images: Image) -> None:
    register(site, images)
    assert not [call for call in site.open().plan(images, OPTIONS) if "->" in call]


def test_refused_credentials_fail_the_probe(site: Site, images: Image) -> None:
    if site.stranger is None:
        return  # a directory asks for no credentials
    asks: list[Callable[[Cloud], object]] = [
        lambda cloud: cloud.probe(images, OPTIONS),
        lambda cloud: cloud.check(),
    ]
    for ask in asks:
        with pytest.raises(CloudError) as caught:
            ask(site.stranger())
        assert caught.value.next_step
        assert "Traceback" not in str(caught.value)


class Stop(Interrupted):
    """Raised by the test where the user's interrupt would be."""


def test_an_interrupt_at_any_step_leaves_nothing_half_done(site: Site, tmp_path: Path) -> None:
    """Interrupt at every call of progress in turn, each time with another build; then rerun."""
    calls = count_calls(site, make_images(tmp_path / "count", seed=100))
    assert calls > 3
    interrupted = 0
    # Each point costs a server two uploads; the fault suites stop it at every request.
    for number in sample(calls, 12 if site.kind == "local" else 5):
        images = make_images(tmp_path / str(number), seed=200 + number)
        before = len(site.open().generations("demo"))
        try:
            site.open().publish(images, OPTIONS, Observed(raise_at(number)))
        except Stop:
            interrupted += 1
            assert_no_partial(site)
        registration = register(site, images)
        assert_triple(site, images, registration)
        assert_tidy(site)
        assert len(site.open().generations("demo")) == before + 1
    assert interrupted >= min(3, calls)


def sample(calls: int, most: int) -> list[int]:
    """At most `most` of range(calls), spread evenly, the first and last included."""
    if calls <= most:
        return list(range(calls))
    return sorted({round(i * (calls - 1) / (most - 1)) for i in range(most)})


def raise_at(number: int) -> Callable[[int, str], None]:
    def at(call: int, _text: str) -> None:
        if call >= number:
            raise Stop

    return at


def count_calls(site: Site, images: Image) -> int:
    progress = Observed(lambda _number, _text: None)
    site.open().publish(images, OPTIONS, progress)
    return progress.calls


def start_child(site: Site, directory: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.contract.child", site.word, directory, *map(str, words)],
        env=child_environment(site),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_upload_leaves_nothing_half_done(site: Site, tmp_path: Path) -> None:
    calls = count_calls(site, make_images(tmp_path / "count", seed=100))
    killed = 0
    points = sample(calls, 4)
    for number in points:
        seed = 300 + number
        child = start_child(site, tmp_path / str(number), seed, number)
        _, words = child.communicate(timeout=_CHILD_SECONDS)
        # How often a poll or a batch of parts reports is the server's affair: the last point of
        # one run may lie beyond the end of another.
        assert child.returncode in {-9, 0}, words
        killed += child.returncode == -9
        assert_no_partial(site)
        images = make_images(tmp_path / str(number), seed=seed)
        registration = register(site, images)
        assert_triple(site, images, registration)
        assert_tidy(site)
    assert killed >= len(points) - 1


def test_two_uploads_at_once_make_one_triple(site: Site, tmp_path: Path) -> None:
    children = [start_child(site, tmp_path / str(number), 7) for number in range(2)]
    ended = [(*child.communicate(timeout=_CHILD_SECONDS), child.returncode) for child in children]
    assert [status for _, _, status in ended] == [0, 0], ended
    first, second = (json.loads(words) for words, _, _ in ended)
    assert first["machine_id"] == second["machine_id"]
    assert first["kernel_id"] == second["kernel_id"]
    assert len(site.everything()) == 3
    assert_tidy(site)
    images = make_images(tmp_path / "0", seed=7)
    assert_triple(site, images, register(site, images))


def test_two_uploads_in_one_process_make_one_triple(site: Site, images: Image) -> None:
    """Both start within microseconds of each other."""
    barrier = threading.Barrier(2)

    def upload() -> Registration:
        barrier.wait()
        return register(site, images)

    with ThreadPoolExecutor(2) as pool:
        first, second = [future.result() for future in [pool.submit(upload) for _ in range(2)]]
    assert first.machine_id == second.machine_id
    assert len(site.everything()) == 3
    assert_tidy(site)
