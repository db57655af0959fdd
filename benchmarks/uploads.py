"""Uploads: this pipeline against what users would run, on the same loopback endpoints.

    python -m benchmarks.uploads [--mib 128] [--latency-ms 50] [--rounds 3] [--glance]

EBS direct: ours / one block after the other. S3: our parts / boto3's upload_file (what aws-cli
does). Both endpoints are the strict stand-in of the tests in a process of its own, every answer
late by the latency. With --glance: our whole publish / curl's PUT of the same root, on a real
Glance (its environment is installed first). Rounds alternate; medians; compare ratios. Prints a
table and writes docs/benchmarks-uploads.md.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import boto3

from pipeline.clouds.aws import Site, open_site
from pipeline.clouds.bundle import PART_SIZE
from pipeline.clouds.ebs_direct import BLOCK, DirectUpload, aggregate, data_blocks
from pipeline.clouds.ec2_objects import Bucket, PartUploads
from pipeline.clouds.protocol import PublishOptions
from pipeline.disk.source import RawFile
from pipeline.progress import QuietProgress
from pipeline.settings import PROJECT
from tests.contract.site import image_file, make_images

MIB = 1 << 20
_KEYS = {
    "AWS_ACCESS_KEY_ID": "AKSTANDIN",
    "AWS_SECRET_ACCESS_KEY": "stand-in-secret",
    "AWS_DEFAULT_REGION": "stand-in-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
Rival = Callable[[], None]


@contextmanager
def standin(latency: float) -> Iterator[str]:
    """The stand-in in a process of its own; its URL."""
    argv = [sys.executable, "-m", "tests.standins", "--latency-ms", str(latency)]
    with subprocess.Popen(
        argv, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def ebs_rivals(site: Site, disk: Path) -> dict[str, Rival]:
    """A snapshot of the disk, ours and block by block."""

    def ours() -> None:
        DirectUpload(site.ebs(), "bench", lambda _snapshot: True).run(
            disk,
            token=uuid.uuid4().hex,
            tags={},
            description="",
            parent=None,
            advance=lambda _count: None,
        )

    def naive() -> None:
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

    return {"EBS direct: ours": ours, "EBS direct: one block after the other": naive}


def s3_rivals(site: Site, disk: Path) -> dict[str, Rival]:
    """The disk's bytes in a bucket: as our parts, and as boto3's multipart upload."""
    bucket = Bucket(site.s3(), "bench", "bench")
    bucket.ensure()

    def ours() -> None:
        prefix = uuid.uuid4().hex
        with (
            RawFile(disk) as raw,
            PartUploads(bucket, lambda i: f"{prefix}.{i:04d}", {}, lambda: None) as uploads,
        ):
            for index, offset in enumerate(range(0, raw.size, PART_SIZE)):
                uploads(index, raw.read(offset, min(PART_SIZE, raw.size - offset)))
            uploads.finish(prefix)

    def multipart() -> None:
        client = site.s3()
        # The stand-in wants Content-MD5, which boto3 sends no more unless told.
        client.meta.events.register("before-call.s3.UploadPart", _add_md5)
        client.upload_file(str(disk), "bench", uuid.uuid4().hex)

    return {"S3: ours": ours, "S3: boto3 upload_file": multipart}


def _add_md5(params: dict[str, object], **_others: object) -> None:
    body = params["body"]
    data = body.read()  # type: ignore[attr-defined] # a part of the file
    body.seek(0)  # type: ignore[attr-defined] # as above
    headers = params["headers"]
    assert isinstance(headers, dict)
    headers["Content-MD5"] = base64.b64encode(hashlib.md5(data).digest()).decode()


@contextmanager
def glance_rivals(disk: Path, work: Path) -> Iterator[dict[str, Rival]]:
    """A root in a real Glance: our whole publish, and curl's PUT alone."""
    from pipeline.clouds.glance import GlanceCloud
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
        images = replace(images, machine=image_file(images.machine.role, disk))

        def ours() -> None:
            build = replace(images, name=f"b{uuid.uuid4().hex[:8]}")
            GlanceCloud("glance:bench", "bench").publish(build, PublishOptions(), QuietProgress())

        def curl() -> None:
            auth = ["-H", f"X-Auth-Token: {token}"]
            record = {"name": "b", "container_format": "ami", "disk_format": "ami"}
            kind = ["-H", "Content-Type: application/json", "-d", json.dumps(record)]
            made = subprocess.run(
                ["curl", "-sf", *auth, *kind, f"{url}/v2/images"], check=True, capture_output=True
            )
            target = f"{url}/v2/images/{json.loads(made.stdout)['id']}/file"
            kind = ["-H", "Content-Type: application/octet-stream"]
            subprocess.run(["curl", "-sf", *auth, *kind, "-T", str(disk), target], check=True)

        yield {"Glance: ours, the whole triple": ours, "Glance: curl, the root alone": curl}
    finally:
        processes.stop()


def measure(rivals: dict[str, Rival], rounds: int) -> dict[str, float]:
    """Median wall seconds of each, in alternating rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            begun = time.monotonic()
            run()
            seconds[name].append(time.monotonic() - begun)
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def main() -> None:
    """Measure, print, write the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=128)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--glance", action="store_true")
    options = parser.parse_args()
    rows = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as text:
        work = Path(text)
        disk = work / "disk.raw"
        disk.write_bytes(os.urandom(options.mib * MIB))
        # Before the cache is moved: an environment that is there is used.
        if options.glance:
            with glance_rivals(disk, work) as rivals:
                rows.append(measure(rivals, options.rounds))
        os.environ["IMAGE_PIPELINE_CACHE"] = str(work / "cache")
        for choose in (ebs_rivals, s3_rivals):
            with standin(options.latency_ms) as url:
                os.environ.update(_KEYS, AWS_ENDPOINT_URL=url)
                boto3.setup_default_session()
                rows.append(measure(choose(open_site("bench", ""), disk), options.rounds))
    lines = [
        "# Benchmark: uploads",
        "",
        f"`python -m benchmarks.uploads {' '.join(sys.argv[1:])}`".rstrip(" `") + "`",
        "",
        f"{options.mib} MiB of random bytes, answers late by {options.latency_ms:.0f} ms (Glance:"
        f" not), medians of {options.rounds} alternating rounds,"
        f" {len(os.sched_getaffinity(0))} cores shared by client and server, with a load of"
        f" {load:.1f} before the first round (above their number, wall time tells little).",
        "",
        "| | wall s | ours is so many times as fast |",
        "|---|---|---|",
    ]
    for row in rows:
        first = next(iter(row.values()))
        lines += [f"| {name} | {wall:.2f} | {wall / first:.2f} |" for name, wall in row.items()]
    text = "\n".join([*lines, ""])
    print(text)
    (PROJECT / "docs" / "benchmarks-uploads.md").write_text(text)


if __name__ == "__main__":
    main()
