"""One upload of a triple to an S3-backed cloud: all bundles first, then the three images."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.clouds.aws.images import Images, RegisteredImage, UnavailableError, user_tags
from pipeline.clouds.aws.keys import bundle_secret
from pipeline.clouds.aws.names import MANIFEST, Names, to_metadata
from pipeline.clouds.aws.objects import Bucket, PartUploads
from pipeline.clouds.bundle.archive import Compression, implementation
from pipeline.clouds.bundle.codec import bundle, part_name
from pipeline.clouds.bundle.manifest import BundleKeys, Manifest, Sealer, fingerprint
from pipeline.clouds.protocol import PublishOptions
from pipeline.core import identity
from pipeline.core.architecture import words
from pipeline.core.errors import CloudError
from pipeline.core.events import Progress
from pipeline.core.image import Artifact, Image, Role
from pipeline.host.retry import pause

# A cloud fetches, decrypts and stores an image before it is available: ec2-api does so at some
# 50 MB/s on a slow core. A tenth of that, and five minutes for a queue before it.
_AVAILABLE_SECONDS, _AVAILABLE_RATE = 300.0, 5e6
_LOOKS, _LOOK_SECONDS = 5, 2.0  # lists of images lag by seconds, not by minutes


@dataclass
class Publication:
    """What one upload works with, and what it has made so far."""

    cloud: str
    images: Image
    options: PublishOptions
    progress: Progress
    account: Images
    bucket: Bucket
    names: Names
    sealer: Sealer
    user: str
    compression: Compression
    generation: str
    _made: list[str] = field(default_factory=list)

    def make(self) -> RegisteredImage:
        """Upload and register what is missing; at any failure deregister what this run made."""
        self._clear_failed()
        self.bucket.ensure()
        manifests = {
            file.role: self._upload(file)
            for file in self.images.triple
            if file.role is Role.MACHINE or not self._find(self.names.of(self.images, file))
        }
        try:
            parents = {}
            for file in (self.images.kernel, self.images.ramdisk):
                # One after the other: a small cloud that imports both at once can lose one.
                parents[file.role] = self._register(file, manifests.get(file.role))
                self._wait(parents[file.role], file)
            manifest = replace(
                manifests[Role.MACHINE],
                kernel_id=parents[Role.KERNEL],
                ramdisk_id=parents[Role.RAMDISK],
            )
            machine_id = self._register(self.images.machine, manifest)
            machine = self._wait(machine_id, self.images.machine)
            self._require_links(machine)
            self._update(machine, {file.role: self._tags(file) for file in self.images.triple})
            self._require_whole(machine)
        except BaseException:
            self._roll_back()
            raise
        return machine

    def _require_links(self, machine: RegisteredImage) -> None:
        """CloudError where the cloud forgets an image's kernel: nothing would find the triple."""
        if not (machine.kernel_id and machine.ramdisk_id):
            raise CloudError(
                "register",
                f"{self.images.name} on {self.cloud}",
                why=f"the cloud made {machine.id} and shows it without its kernel and ramdisk",
                next_step="It takes whole disks alone: build with --disk-image and upload to"
                " ebs:PROFILE, where it has EBS",
            )

    def update(self, machine: RegisteredImage) -> None:
        """Bring launch permissions, the user's tags and the verdict of the three up to date."""
        verified = self._tags(self.images.machine)[identity.MARK_VERIFIED]
        changed = machine.tags.get(identity.MARK_VERIFIED, verified) != verified
        marks = {identity.MARK_VERIFIED: verified} if changed else {}
        self._update(machine, {file.role: marks for file in self.images.triple}, tell=True)

    def _update(
        self,
        machine: RegisteredImage,
        marks: Mapping[Role, Mapping[str, str]],
        *,
        tell: bool = False,
    ) -> None:
        """tell: say what is changed of images that were there before."""
        ids = (machine.kernel_id, machine.ramdisk_id, machine.id)
        others = [image for image in self.account.own() if image.id != machine.id]
        used = {i for image in others for i in (image.kernel_id, image.ramdisk_id)}
        for image_id in ids:
            # A kernel of another generation, which may be public, keeps its readers.
            words = self.account.share(image_id, self.options, narrow=image_id not in used)
            if words and tell:
                self.progress.say(f"{self.cloud}: {image_id}: {words}")
        tags = user_tags(self.options.tags)
        try:
            for file, image_id in zip(self.images.triple, ids, strict=True):
                # One that several generations share tells of the first.
                mine = {} if image_id in used else marks.get(file.role, {})
                if wanted := {**mine, **tags}:
                    self.account.tag([image_id], wanted)
        except CloudError as error:
            # The marks are in the manifests' metadata as well; some of these clouds have no tags.
            show = self.progress.warn if tags else self.progress.say
            show(f"{self.cloud}: the images stay without tags: {error.why}")

    def _upload(self, file: Artifact) -> Manifest:
        stem = self.names.of(self.images, file)
        status = file.path.stat()
        keys = BundleKeys.derived(
            bundle_secret(),
            fingerprint(self.sealer.cloud),
            stem,
            file.sha256,
            f"{status.st_size} {status.st_mtime_ns}",
            implementation(self.compression),
        )
        prefix = f"{stem}.{keys.label}"
        present = self.bucket.list(f"{prefix}.")
        label = f"{self.cloud}: uploading the {file.role} as a bundle"
        with (
            self.progress.task(label, file.size) as meter,
            PartUploads(
                self.bucket,
                lambda index: part_name(prefix, index),
                present,
                lambda: meter.advance(0),
            ) as uploads,
        ):
            manifest = bundle(
                file.path,
                file.role,
                name=stem,
                architecture=words(self.images.architecture).bundle,
                user=self.user,
                sealer=self.sealer,
                sink=uploads,
                keys=keys,
                part_prefix=prefix,
                compression=self.compression,
                sha256=file.sha256,
                advance=meter.advance,
            )
            uploads.finish(prefix)
        return manifest

    def _register(self, file: Artifact, manifest: Manifest | None) -> str:
        """The id of an image with that content, registered now unless it is there."""
        stem = self.names.of(self.images, file)
        if manifest is None:
            for image in self._find(stem):
                return image.id
            raise CloudError(
                "link",
                f"{stem} on {self.cloud}",
                why="it was there before the upload and is gone",
                next_step="Try again: it is uploaded then",
            )
        self.bucket.put(
            f"{stem}{MANIFEST}", manifest.xml(self.sealer), to_metadata(self._marks(file))
        )
        label = f"{self.cloud}: registering the {file.role}"
        with self.progress.task(label, unit="steps") as meter:
            image_id, created = self.account.register(
                stem,
                {"Name": stem, "ImageLocation": self.names.location(stem)},
                lambda: self._find(stem),
                lambda: meter.advance(0),
            )
        if created:
            self._made.append(image_id)
        return image_id

    def _require_whole(self, machine: RegisteredImage) -> None:
        """CloudError when kernel or ramdisk went since they were seen, as by another's roll-back.

        Asked more than once, because a list may lag.
        """
        label = f"{self.cloud}: looking at the triple"
        with self.progress.task(label, unit="steps") as meter:
            for left in reversed(range(_LOOKS)):
                whole = self.names.whole(self.account.own(), self.names.machine(self.images))
                if any(image.id == machine.id for image in whole):
                    return
                if left:
                    pause(_LOOK_SECONDS, lambda: meter.advance(0))
        raise CloudError(
            "register",
            f"{self.images.name} on {self.cloud}",
            why="its kernel or ramdisk was deregistered meanwhile",
            next_step="Run it again: what was uploaded is used",
        )

    def _wait(self, image_id: str, file: Artifact) -> RegisteredImage:
        label = f"{self.cloud}: waiting for {image_id}"
        with self.progress.task(label, unit="steps") as meter:
            seconds = _AVAILABLE_SECONDS + file.size / _AVAILABLE_RATE
            try:
                return self.account.wait(
                    image_id, f"the {file.role} image", seconds, lambda: meter.advance(0)
                )
            except UnavailableError:
                # Also one that an earlier run registered: kept, it would stop every later run.
                self._made.append(image_id)
                raise

    def _find(self, stem: str) -> list[RegisteredImage]:
        location = self.names.location(stem)
        return [
            image for image in self.account.own() if image.location == location and not image.failed
        ]

    def _clear_failed(self) -> None:
        """Deregister what the cloud gave up on, and machine images whose kernel is gone."""
        own = self.account.own()
        ids = {image.id for image in own}
        machine = self.names.location(self.names.machine(self.images))
        ours = {self.names.location(self.names.of(self.images, f)) for f in self.images.triple}
        for image in own:
            unlinked = image.location == machine and not (
                image.state == "pending" or {image.kernel_id, image.ramdisk_id} <= ids
            )
            if unlinked or (image.location in ours and image.failed):
                self.account.deregister(image.id)

    def _marks(self, file: Artifact) -> Mapping[str, str]:
        return {
            identity.MARK_NAME: self.images.name,
            identity.MARK_KEY: identity.content_key(self.images),
            identity.MARK_ROLE: str(file.role),
            identity.MARK_SHA256: file.sha256,
            identity.MARK_GENERATION: self.generation,
            identity.MARK_VERIFIED: str(self.images.verified()).lower(),
        }

    def _tags(self, file: Artifact) -> Mapping[str, str]:
        # ec2-api takes a tag's value "true" for a boolean and fails.
        verified = {identity.MARK_VERIFIED: "yes" if self.images.verified() else "no"}
        state = {identity.MARK_STATE: identity.WHOLE} if file.role is Role.MACHINE else {}
        return {**self._marks(file), **verified, **state}

    def _roll_back(self) -> None:
        for image_id in reversed(self._made):
            # One that stays is adopted by the next run, or is used by another upload already: also
            # by a machine image of ours whose registration was never answered.
            with contextlib.suppress(CloudError):
                others = [image for image in self.account.own() if image.id not in self._made]
                if not any(image_id in (i.kernel_id, i.ramdisk_id) for i in others):
                    self.account.deregister(image_id)
