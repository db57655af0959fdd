"""The Dockerfile, built and run by buildah: what a container engine does, without one."""

from __future__ import annotations

import os
import subprocess

import pytest

from pipeline.core.resources import PROJECT

pytestmark = [pytest.mark.integration, pytest.mark.long]

SECONDS = 5400  # two demo builds in emulated guests, and an image from nothing


@pytest.mark.timeout(SECONDS + 60)
def test_the_image_builds_the_demo_as_any_user() -> None:
    # pip's own setting names the bundle where a site has a certificate authority of its own.
    environment = os.environ | {"CONTAINER_CHECK_CA": os.environ.get("PIP_CERT", "")}
    done = subprocess.run(
        [PROJECT / "setup/container-check"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "container-check: passed" in done.stderr
