"""The story of an upload: probe every cloud, publish on all at once, prune, record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.builds.registrations import add_to_record, remove_from_record, superseded
from pipeline.builds.workspace import Workspace
from pipeline.clouds.protocol import Cloud, Interrupted, InUseError, PublishOptions
from pipeline.core.errors import HostError, InputError, PipelineError
from pipeline.core.events import Meter, Progress, Unit
from pipeline.core.hardware import Hardware
from pipeline.core.image import Image, Registration, Role
from pipeline.core.properties import MARKS, require_free
from pipeline.core.steps import StepName
from pipeline.guest.boot.drivers import bus_needs, missing
from pipeline.host.sparse import digests

_Result = TypeVar("_Result")
_AWS = "aws:"  # tags that begin so are Amazon's own
_POLL = 0.2  # seconds between looks for an interrupt; waiting without a time-out blocks signals


@dataclass(frozen=True)
class Outcome:
    """What happened on one cloud: a registration or an error, never both.

    withdrawn: older generations that `keep` pruned. unrecorded: why the registration, which is
    there all the same, could not be written into the build's record; "" when it was.
    """

    cloud: str
    registration: Registration | None = None
    error: PipelineError | None = None
    withdrawn: tuple[Registration, ...] = ()
    unrecorded: str = ""


def plan(images: Image, clouds: Sequence[Cloud], options: PublishOptions) -> dict[str, list[str]]:
    """The calls `publish` would make now, by the cloud's name. Raises what a probe raises."""
    _check_hardware(images, options)
    calls = {}
    require_options(options, images)
    for cloud in _distinct(clouds):
        cloud.probe(images, options)
        calls[cloud.name] = cloud.plan(images, options)
    return calls


def publish(
    images: Image,
    clouds: Sequence[Cloud],
    options: PublishOptions,
    *,
    record: Path,
    progress: Progress,
) -> list[Outcome]:
    """Publish on all clouds in parallel; one outcome a cloud, in their order.

    Every cloud is probed before anything is sent; those whose probe fails get that error as
    their outcome and the others go on. What was registered is added to `record` as soon as it
    is, so an interrupt (KeyboardInterrupt, raised again here once all clouds have stopped)
    loses nothing.
    """
    _distinct(clouds)
    require_options(options, images)
    _check_hardware(images, options)
    if not images.verified(whole_disk=options.whole_disk):
        progress.warn(f"{images.name} was not boot-checked; its images will say so")
    stoppable = _StoppableProgress(progress)
    outcomes: dict[str, Outcome] = {}
    with ThreadPoolExecutor(max_workers=max(1, len(clouds)), thread_name_prefix="publish") as pool:
        try:
            probes = {c.name: pool.submit(_probe, c, images, options, stoppable) for c in clouds}
            for name, error in _results(probes).items():
                if error is not None:
                    outcomes[name] = Outcome(name, error=error)
            running = {
                cloud.name: pool.submit(_publish_one, cloud, images, options, record, stoppable)
                for cloud in clouds
                if cloud.name not in outcomes
            }
            outcomes.update(_results(running))
        except BaseException:
            stoppable.stop()
            raise
    return [outcomes[cloud.name] for cloud in clouds]


def confirm(image: Image, directory: Path, *, whole_disk: bool, progress: Progress) -> None:
    """Make sure that the files to be sent are those that the build made.

    One that is the very file of the build's record (size, time, inode) is believed; any other is
    hashed, once for all clouds. InputError for one whose bytes are not the manifest's.
    """
    workspace = Workspace(directory)
    for artifact in image.artifacts:
        sent = (artifact.role is Role.DISK) == whole_disk
        if not sent or workspace.untouched(StepName.IMAGE, artifact.path.name):
            continue
        with progress.task(f"hashing {artifact.path.name}", total=artifact.size) as meter:
            found = digests(artifact.path, ["sha256"], meter)["sha256"]
        if found != artifact.sha256:
            raise InputError(
                f"publish {image.name} from",
                artifact.path,
                why=f"it is no longer what the build made: its sha256 is {found}, the manifest"
                f" says {artifact.sha256}",
                next_step="Build it again",
            )


def require_options(options: PublishOptions, images: Image | None = None) -> None:
    """InputError for names that the clouds or the pipeline keep for themselves."""
    require_free(options.properties)
    require_free(images.properties if images else {})
    for option, words in (("--tag", options.tags), ("--member", options.members)):
        if any(not word.strip() for word in words):
            raise InputError(
                f"use the option {option}",
                why="its word is empty",
                next_step="Leave the option out, or give it a word",
            )
    for tag in options.tags:
        if tag.lower().startswith((MARKS, _AWS)):
            raise InputError(
                "set the tag",
                tag,
                why="such tags are the pipeline's own marks, or the cloud's",
                next_step="Choose another tag",
            )


def _check_hardware(images: Image, options: PublishOptions) -> None:
    """InputError for properties of this upload that put the root where it cannot be found.

    The recipe's own were looked at by the build.
    """
    if images.drivers is None or not options.properties:
        return
    built, asked = images.properties, {**images.properties, **options.properties}
    architecture = images.hardware.architecture
    hardware = Hardware.of(asked, architecture)
    lacking = missing(bus_needs(hardware) or (), images.drivers)
    if lacking and hardware != Hardware.of(built, architecture):
        raise InputError(
            "publish",
            images.name,
            why=f"{hardware.disk_words} asks for {', '.join(lacking)}, which neither its ramdisk "
            "nor its kernel has: its instances would not find their root",
            next_step="Put the property into the recipe and build again: the build's error names "
            "the command that adds the drivers",
        )


def _distinct(clouds: Sequence[Cloud]) -> Sequence[Cloud]:
    names = [cloud.name for cloud in clouds]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                "publish on", name, why="it is named twice", next_step="Name each cloud once"
            )
    return clouds


def _probe(
    cloud: Cloud, images: Image, options: PublishOptions, progress: Progress
) -> PipelineError | None:
    progress.say(f"{cloud.name}: checking credentials, permissions and image types")
    try:
        cloud.probe(images, options)
    except PipelineError as error:
        return error
    except (OSError, EOFError) as error:
        return _trouble(cloud, images, error)
    return None


def _trouble(cloud: Cloud, images: Image, error: Exception) -> PipelineError:
    """The host's trouble as that of one cloud; the others go on all the same."""
    return HostError(
        f"publish {images.name} on",
        cloud.name,
        why=str(error),
        next_step="Mend that and run it again: what was sent is used",
    )


def _publish_one(
    cloud: Cloud, images: Image, options: PublishOptions, record: Path, progress: Progress
) -> Outcome:
    try:
        registration = cloud.publish(images, options, progress)
    except PipelineError as error:
        return Outcome(cloud.name, error=error)
    except (OSError, EOFError) as error:
        return Outcome(cloud.name, error=_trouble(cloud, images, error))
    # From here on the images are there, whatever else fails.
    unrecorded = _recorded(add_to_record, record, registration)
    if unrecorded:
        progress.warn(f"{cloud.name}: the images are registered, but not recorded: {unrecorded}")
    withdrawn = _prune(cloud, registration, options.keep, record, progress)
    return Outcome(cloud.name, registration, withdrawn=withdrawn, unrecorded=unrecorded)


def _recorded(
    change: Callable[[Path, Registration], None], record: Path, registration: Registration
) -> str:
    """Why registrations.json could not be changed; "" when it was."""
    try:
        change(record, registration)
    except (PipelineError, OSError) as error:
        return f"{error}. Run the upload again once that is mended"
    return ""


def _prune(
    cloud: Cloud, newest: Registration, keep: int | None, record: Path, progress: Progress
) -> tuple[Registration, ...]:
    """Withdraw generations beyond `keep`; the one just published stays whatever its age."""
    if keep is None:
        return ()
    withdrawn = []
    # The upload itself is done and recorded: an old image that will not go is a warning.
    try:
        for old in superseded(cloud.generations(newest.name), newest, keep):
            try:
                cloud.withdraw(old)
            except InUseError as error:
                progress.warn(str(error))
                continue
            withdrawn.append(old)
            progress.say(f"{cloud.name}: withdrew generation {old.generation}, {old.machine_id}")
            if unrecorded := _recorded(remove_from_record, record, old):
                progress.warn(f"{cloud.name}: {old.machine_id} is withdrawn: {unrecorded}")
    except (PipelineError, OSError) as error:
        progress.warn(str(error))
    return tuple(withdrawn)


def _results(futures: Mapping[str, Future[_Result]]) -> dict[str, _Result]:
    """The futures' results by name, once all are done; the first exception among them is raised.

    An interrupt of the main thread comes through at once.
    """
    while wait(futures.values(), timeout=_POLL).not_done:
        pass
    return {name: future.result() for name, future in futures.items()}


class _StoppableProgress:
    """Passes on to the user's view until `stop`; from then on every call raises Interrupted."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def check(self) -> None:
        if self._stopped.is_set():
            raise Interrupted

    def say(self, text: str) -> None:
        self.check()
        self._inner.say(text)

    def warn(self, text: str) -> None:
        self.check()
        self._inner.warn(text)

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: Unit = "bytes") -> Iterator[Meter]:
        self.check()
        with self._inner.task(label, total, unit) as meter:
            yield _StoppableMeter(self, meter)


class _StoppableMeter:
    def __init__(self, progress: _StoppableProgress, inner: Meter) -> None:
        self._progress, self._inner = progress, inner

    def advance(self, amount: int) -> None:
        self._progress.check()
        self._inner.advance(amount)

    def describe(self, text: str) -> None:
        self._progress.check()
        self._inner.describe(text)
