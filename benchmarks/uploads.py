"""Uploads: this pipeline against what users would run, on the same loopback endpoints.

EBS direct: ours / one block after the other. S3: our parts / boto3's upload_file, which is what
aws-cli does. Both endpoints are the strict stand-in of the tests in a process of its own, every
answer late by the latency. Glance: our whole publish / the same three files by curl, and the root
alone, on a real one, whose environment is installed first.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import boto3

from benchmarks.bars import bars
from benchmarks.document import Section
from benchmarks.measure import MIB, Options, Work, alternate, circumstances, cost_table, host
from pipeline.clouds.aws.ebs_direct import BLOCK, DirectUpload, aggregate, data_blocks
from pipeline.clouds.aws.objects import Bucket, PartUploads
from pipeline.clouds.aws.session import Site, open_site
from pipeline.clouds.bundle.codec import PART_SIZE
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.events import QuietProgress
from pipeline.core.resources import PROJECT
from pipeline.disk.blocks.source import RawFile
from tests.contract.site import image_file, make_images

LATENCY_MS = 50.0
"""Of every answer: a store some thousand kilometres away."""
_KEYS = {
    "AWS_ACCESS_KEY_ID": "AKSTANDIN",
    "AWS_SECRET_ACCESS_KEY": "stand-in-secret",
    "AWS_DEFAULT_REGION": "stand-in-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


@contextmanager
def standin(latency: float) -> Iterator[str]:
    """The stand-in in a process of its own; its URL."""
    argv = [sys.executable, "-m", "tests.fakes", "--latency-ms", str(latency)]
    with subprocess.Popen(
        argv, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def ebs_rivals(site: Site, disk: Path) -> dict[str, Work]:
    """A snapshot of the disk, ours and block by block."""

    def ours(_out: Path) -> None:
        DirectUpload(site.ebs(), "bench", lambda _snapshot: True).run(
            disk,
            token=uuid.uuid4().hex,
            tags={},
            description="",
            parent=None,
            advance=lambda _count: None,
        )

    def naive(_out: Path) -> None:
        client = site.ebs()
        gib = -(-disk.stat().st_size >> 30) or 1
        snapshot = client.start_snapshot(VolumeSize=gib, ClientToken=uuid.uuid4().hex)["SnapshotId"]
        digests = {}
        with RawFile(disk) as raw:
            for index, data in data_blocks(raw):
                digests[index] = hashlib.sha256(data).digest()
                client.put_snapshot_block(
                    SnapshotId=snapshot,
                    BlockIndex=index,
                    BlockData=data,
                    DataLength=BLOCK,
                    Checksum=base64.b64encode(digests[index]).decode(),
                    ChecksumAlgorithm="SHA256",
                )
        client.complete_snapshot(
            SnapshotId=snapshot,
            ChangedBlocksCount=len(digests),
            Checksum=aggregate(digests),
            ChecksumAlgorithm="SHA256",
            ChecksumAggregationMethod="LINEAR",
        )

    return {"this pipeline": ours, "one block after the other": naive}


def s3_rivals(site: Site, disk: Path) -> dict[str, Work]:
    """The disk's bytes in a bucket: as our parts, and as boto3's multipart upload."""
    Bucket(site.s3(), "bench", "bench").ensure()

    def ours(_out: Path) -> None:
        # A client of this process's own: a connection must not be shared with the other runs.
        bucket = Bucket(site.s3(), "bench", "bench")
        prefix = uuid.uuid4().hex
        with (
            RawFile(disk) as raw,
            PartUploads(bucket, lambda i: f"{prefix}.{i:04d}", {}, lambda: None) as uploads,
        ):
            for index, offset in enumerate(range(0, raw.size, PART_SIZE)):
                uploads(index, raw.read(offset, min(PART_SIZE, raw.size - offset)))
            uploads.finish(prefix)

    def multipart(_out: Path) -> None:
        client = site.s3()
        # The stand-in wants Content-MD5, which boto3 sends no more unless told.
        client.meta.events.register("before-call.s3.UploadPart", _add_md5)
        client.upload_file(str(disk), "bench", uuid.uuid4().hex)

    return {"this pipeline": ours, "boto3 upload_file": multipart}


def _add_md5(params: dict[str, object], **_others: object) -> None:
    body = params["body"]
    data = body.read()  # type: ignore[attr-defined] # a part of the file
    body.seek(0)  # type: ignore[attr-defined] # as above
    headers = params["headers"]
    assert isinstance(headers, dict)
    headers["Content-MD5"] = base64.b64encode(hashlib.md5(data).digest()).decode()


@contextmanager
def glance_rivals(disk: Path, work: Path) -> Iterator[dict[str, Work]]:
    """A triple in a real Glance: our whole publish, curl's three PUTs, and that of the root."""
    from pipeline.clouds.glance.cloud import GlanceCloud
    from tests.servers import glance
    from tests.servers.fixtures import token_settings
    from tests.servers.processes import Processes, free_port

    processes = Processes(work / "logs", tied=True)
    try:
        url = glance.start(processes, work / "glance", free_port(), None)
        token = "user:bench:member,reader"
        config = work / "clouds.yaml"
        config.write_text(json.dumps({"clouds": {"bench": token_settings(url, token)}}))
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(config)
        images = make_images(work / "build")
        images = images.replacing(image_file(images.machine.role, disk))

        def ours(_out: Path) -> None:
            build = replace(images, name=f"b{uuid.uuid4().hex[:8]}")
            GlanceCloud("glance:bench", "bench").publish(build, PublishOptions(), QuietProgress())

        def curl(file: Path) -> None:
            auth = ["-H", f"X-Auth-Token: {token}"]
            record = {"name": "b", "container_format": "ami", "disk_format": "ami"}
            kind = ["-H", "Content-Type: application/json", "-d", json.dumps(record)]
            made = subprocess.run(
                ["curl", "-sf", *auth, *kind, f"{url}/v2/images"], check=True, capture_output=True
            )
            target = f"{url}/v2/images/{json.loads(made.stdout)['id']}/file"
            kind = ["-H", "Content-Type: application/octet-stream"]
            subprocess.run(["curl", "-sf", *auth, *kind, "-T", str(file), target], check=True)

        def curl_all(_out: Path) -> None:
            for image in images.triple:
                curl(image.path)

        yield {
            "this pipeline, the whole triple": ours,
            "curl, the root alone": lambda _out: curl(disk),
            "curl, three files that nothing links": curl_all,
        }
    finally:
        processes.stop()


def _random_file(path: Path, mib: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    return path


def sections(options: Options) -> Iterator[Section]:
    """Send the same bytes to each endpoint, by both ways in turn."""
    mib = 32 if options.quick else 256
    parts = []
    plot: dict[str, float] = {}

    def compare(title: str, rivals: dict[str, Work], work: Path) -> None:
        ours, *_, theirs = rivals
        costs = alternate(rivals, options.rounds, work, base=theirs)
        parts.append(
            f"### {title}\n\n{circumstances(costs, options.rounds)}\n\n"
            f"{cost_table(costs, 'rival')}\n"
            f"This pipeline: {1 / costs[ours].ratio:.2f} x as fast as {theirs}."
        )
        plot.update({f"{title}: {name}": cost.seconds for name, cost in costs.items()})

    with tempfile.TemporaryDirectory(dir=options.directory) as text:
        work = Path(text)
        disk = _random_file(work / "disk.raw", mib)
        if not options.quick:
            for size in (mib, 4 * mib):
                place = work / str(size)
                root = _random_file(place / "root.img", size)
                with glance_rivals(root, place) as rivals:
                    compare(f"Glance, {size} MiB", rivals, work)
                shutil.rmtree(place)
        # After Glance, whose environment lies in the cache.
        os.environ["IMAGE_PIPELINE_CACHE"] = str(work / "cache")
        for title, choose in (("EBS direct", ebs_rivals), ("S3", s3_rivals)):
            with standin(LATENCY_MS) as url:
                os.environ.update(_KEYS, AWS_ENDPOINT_URL=url)
                boto3.setup_default_session()
                compare(title, choose(open_site("bench", ""), disk), work)
    words = (
        f"{host(options.directory)}, shared by client and server. {mib} MiB of random bytes, for"
        f" Glance {4 * mib} too. EBS direct and S3 answer late by"
        f" {LATENCY_MS:.0f} ms, Glance as it does; ours sends kernel and ramdisk to"
        " it as well, finds out what is there, and hashes what it sends."
        + (" Glance was left out by --quick." if options.quick else "")
    )
    yield Section("\n\n".join([words, *parts]), bars("Uploads, seconds (median)", plot))
