"""EC2-compatible clouds with S3-backed images: Eucalyptus, OpenStack's ec2-api and their kin.

Each file becomes a bundle in the bucket, each manifest is registered. Names are made of content:
`kernel-NAME-DIGEST` and `ramdisk-NAME-DIGEST` of the file's sha256, `machine-NAME-DIGEST` of the
triple's content key; an image is ours when its ImageLocation is such a manifest in our bucket.
The marks lie in the metadata of the manifest object, since not every such cloud has tags.
Requests carry the parameters that all of these clouds take and no others.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.clouds.aws.images import Images, RegisteredImage, check_options, permission_words
from pipeline.clouds.aws.keys import certificate_path, load_public_key, signing_key
from pipeline.clouds.aws.names import MANIFEST, Names, from_metadata
from pipeline.clouds.aws.objects import Bucket
from pipeline.clouds.aws.publication import Publication
from pipeline.clouds.aws.session import (
    CHECK_SECONDS,
    Addressing,
    Site,
    check_credentials,
    check_ec2,
    is_aws,
    one_at_a_time,
    open_site,
)
from pipeline.clouds.aws.usage import require_unused
from pipeline.clouds.bundle.archive import Compression
from pipeline.clouds.bundle.manifest import ARCHITECTURES, Sealer
from pipeline.clouds.protocol import PublishOptions
from pipeline.core import identity
from pipeline.core.architecture import words
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import Progress
from pipeline.core.image import Image, Registration, Role
from pipeline.core.passwords import without_passwords
from pipeline.core.text import human_bytes

_UNFINISHED_SECONDS = 24 * 3600.0
"""What lies in the bucket for a day and belongs to no image is no upload under way, on whatever
host: 10 GB at 1 MB/s take three hours."""
_NOBODY = "0" * 12  # the account number in manifests when nothing says which


@dataclass(frozen=True)
class Ec2Cloud:
    """protocol.Cloud over S3 bundles and RegisterImage; made by `open_ec2`.

    prefix: of all object names, without slash: ec2-api looks for parts at the bucket's root.
    user: the account number in manifests.
    """

    name: str
    site: Site
    bucket: str
    certificate: Path
    prefix: str = ""
    user: str = _NOBODY
    compression: Compression = "fast"

    def check(self) -> str:
        """See protocol.Cloud: one request to EC2, one to S3, and the certificate read."""
        site = replace(self.site, read_seconds=CHECK_SECONDS)
        ec2 = check_ec2(site)
        self._sealer()
        client = site.s3(retry=False)
        there = Bucket(client, self.bucket, self.name).check()
        state = "is there" if there else "is made by the first upload"
        place = without_passwords(client.meta.endpoint_url)
        return f"credentials work at {ec2}; the bucket {self.bucket} at {place} {state}"

    def probe(self, images: Image, options: PublishOptions) -> None:
        """See protocol.Cloud. Asks for the account's images and for the bucket."""
        check_options(options, self.name)
        for wrong, why in (
            (options.whole_disk, "S3-backed images are triples, not whole disks"),
            (bool(options.regions), "these clouds have no copies between regions"),
            (options.protected is not None, "these clouds have no protected images"),
            (
                words(images.architecture).bundle not in ARCHITECTURES,
                f"bundles know no {images.architecture}",
            ),
        ):
            if wrong:
                raise InputError(
                    "publish on",
                    self.name,
                    why=why,
                    next_step="Use ebs:PROFILE where the cloud has EBS, or leave the option out",
                )
        check_credentials(self.site)
        self._sealer()
        account = Images(self.site)
        if is_aws(account.endpoint):
            raise InputError(
                "register a kernel and a ramdisk on",
                self.name,
                why="Amazon's EC2 takes whole disks alone from its users",
                next_step="Build with --disk-image and upload to ebs:PROFILE",
            )
        account.own()
        self._bucket().check()

    def plan(self, images: Image, options: PublishOptions) -> list[str]:
        """See protocol.Cloud."""
        names = self._names()
        found = names.whole(Images(self.site).own(), names.machine(images))
        if found:
            ids = (found[0].kernel_id, found[0].ramdisk_id, found[0].id)
            account = Images(self.site)
            calls = [
                f"ModifyImageAttribute {image_id}: {words}"
                for image_id in ids
                if (words := permission_words(account.permissions(image_id, options)))
            ]
            if options.tags:
                calls.append(f"CreateTags {' '.join(ids)}: {', '.join(options.tags)}")
            return calls or [f"nothing: {found[0].id} holds this build"]
        calls = [] if self._bucket().check() else [f"CreateBucket {self.bucket}"]
        for file in images.triple:
            stem = names.of(images, file)
            size = f"{human_bytes(file.size)} before compression"
            calls.append(
                f"PutObject {self.bucket}/{stem}.*.part.* ({file.path.name}, {size}, encrypted)"
            )
            calls.append(f"PutObject {self.bucket}/{stem}{MANIFEST}")
            calls.append(f"RegisterImage Name={stem} ImageLocation={names.location(stem)}")
        calls.append("CreateTags on the three, where the cloud has tags")
        if options.visibility not in (None, "private"):
            calls.append(f"ModifyImageAttribute LaunchPermission of all: {options.visibility}")
        return calls

    def publish(self, images: Image, options: PublishOptions, progress: Progress) -> Registration:
        """See protocol.Cloud. What was uploaded by a run that failed is used by the next."""
        account, names, bucket = Images(self.site), self._names(), self._bucket()
        with one_at_a_time(f"{images.name} on {self.name}, bucket {self.bucket}", progress):
            own = account.own()
            whole = names.whole(own, names.machine(images))
            generations = [] if whole else self._generations(images.name, own, bucket)
            publication = Publication(
                cloud=self.name,
                images=images,
                options=options,
                progress=progress,
                account=account,
                bucket=bucket,
                names=names,
                sealer=self._sealer(),
                user=self.user,
                compression=self.compression,
                generation=identity.next_generation(g.generation for g in generations),
            )
            if whole:
                machine = whole[0]
                publication.update(machine)
            else:
                machine = publication.make()
            self._sweep(images.name, account.own(), bucket, progress)
        return self._registration(images.name, machine, bucket, created=not whole)

    def _sweep(
        self, name: str, own: list[RegisteredImage], bucket: Bucket, progress: Progress
    ) -> None:
        """Delete what uploads that were killed, and never taken up again, left in the bucket."""
        names = self._names()
        try:
            stored = [bucket.list(prefix).items() for prefix in names.prefixes(name)]
            ages = {key: one.age for listing in stored for key, one in listing}
            orphans = names.orphans(ages, own, name, _UNFINISHED_SECONDS)
            bucket.drop(orphans)
        except CloudError as error:  # the upload itself is done
            progress.warn(str(error))
        else:
            if orphans:
                progress.say(f"{self.name}: deleted {len(orphans)} parts of unfinished uploads")

    def generations(self, name: str) -> list[Registration]:
        """See protocol.Cloud."""
        return self._generations(name, Images(self.site).own(), self._bucket())

    def withdraw(self, registration: Registration) -> None:
        """See protocol.Cloud. A kernel or ramdisk that another image uses stays."""
        account, names = Images(self.site), self._names()
        own = account.own()
        stem = names.stem(registration.location)
        machines = [image for image in own if image.id == registration.machine_id]
        if not names.is_machine(stem, registration.name) or any(
            image.location != registration.location for image in machines
        ):
            raise CloudError(
                "withdraw",
                f"{registration.machine_id} on {self.name}",
                why=f"it is no image of this pipeline in the bucket {self.bucket}",
                next_step="Choose the bucket it was published to",
            )
        for image in machines:
            require_unused(self.site, image.id)
        bucket = self._bucket()
        for image in machines:
            account.deregister(image.id)
        bucket.delete(f"{stem}.")
        for role in (Role.RAMDISK, Role.KERNEL):
            image_id = registration.ramdisk_id if role is Role.RAMDISK else registration.kernel_id
            # Listed again: deleting a bundle takes long enough for another upload to use these.
            rest = [image for image in account.own() if image.id != registration.machine_id]
            if any(image_id in (image.kernel_id, image.ramdisk_id) for image in rest):
                continue
            for image in rest:
                stem = names.stem(image.location)
                if image.id == image_id and names.is_part(stem, role, registration.name):
                    account.deregister(image.id)
                    bucket.delete(f"{stem}.")

    def _generations(
        self, name: str, own: list[RegisteredImage], bucket: Bucket
    ) -> list[Registration]:
        names = self._names()
        stems = {names.stem(image.location) for image in own}
        found = [
            self._registration(name, image, bucket)
            for stem in stems
            if names.is_machine(stem, name)
            for image in names.whole(own, stem)
        ]
        return sorted(found, key=lambda registration: registration.generation, reverse=True)

    def _names(self) -> Names:
        return Names(self.bucket, self.prefix)

    def _bucket(self) -> Bucket:
        return Bucket(self.site.s3(), self.bucket, self.name)

    def _sealer(self) -> Sealer:
        return Sealer(load_public_key(self.certificate), signing_key())

    def _registration(
        self, name: str, image: RegisteredImage, bucket: Bucket, *, created: bool = False
    ) -> Registration:
        key = image.location.removeprefix(f"{self.bucket}/")
        marks = {**image.tags, **from_metadata(bucket.metadata(key) or {})}
        return Registration(
            cloud=self.name,
            name=name,
            kernel_id=image.kernel_id,
            ramdisk_id=image.ramdisk_id,
            machine_id=image.id,
            created=created,
            generation=marks.get(identity.MARK_GENERATION, ""),
            key=marks.get(identity.MARK_KEY, ""),
            location=image.location,
        )


def open_ec2(
    profile: str,
    *,
    bucket: str = "",
    prefix: str = "",
    certificate: Path | None = None,
    region: str = "",
    addressing: Addressing = "auto",
    compression: Compression = "fast",
) -> Ec2Cloud:
    """The S3-backed cloud of an AWS profile; docs/how-to/clouds-ec2.md lists the settings.

    No request is sent. InputError names the setting that is missing.
    """
    word = f"ec2:{profile}" if profile else "ec2"
    site = open_site(word, profile, region=region, addressing=addressing)
    bucket = bucket or site.settings.get("bucket") or os.environ.get("EC2_BUCKET", "")
    if not bucket:
        raise InputError(
            "use the cloud",
            word,
            why="no bucket for the bundles is named",
            next_step="Set image_pipeline_bucket in the AWS profile, or EC2_BUCKET",
        )
    prefix = prefix or site.settings.get("prefix", "")
    if "/" in prefix:
        raise InputError(
            "use the object prefix",
            prefix,
            why="OpenStack's ec2-api looks for the parts of a bundle at the bucket's root",
            next_step="Leave out the slash",
        )
    if certificate is None and (value := site.settings.get("certificate")):
        certificate = Path(value)
    certificate = certificate_path(certificate, os.environ)
    if certificate is None:
        raise InputError(
            "use the cloud",
            word,
            why="the cloud's certificate, for which bundles are encrypted, is not named",
            next_step="Set image_pipeline_certificate in the AWS profile, or EUCALYPTUS_CERT",
        )
    return Ec2Cloud(
        name=word,
        site=site,
        bucket=bucket,
        certificate=certificate,
        prefix=prefix,
        user=site.settings.get("user") or os.environ.get("EC2_USER_ID") or _NOBODY,
        compression=compression,
    )
