"""Debian's own installer, unattended, from a mirror to the three files. An hour without KVM."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.builders.recipes import choose_recipe, load_recipes
from pipeline.cli.console import PlainProgress
from pipeline.core.request import BuildRequest
from pipeline.core.resources import PROJECT
from pipeline.core.secrets import Secrets
from pipeline.workflows.build import build
from tests.integration.udebs import complete, netboot

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(6 * 3600)]

MIRROR = "http://deb.debian.org/debian"


def test_debian_13_to_the_three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kickstarts = PROJECT / "kickstart"
    complete(
        MIRROR,
        "trixie",
        netboot(MIRROR, "trixie", "13", tmp_path),
        kickstarts / "debian.preseed",
        tmp_path,
    )
    table = (kickstarts / "recipes.toml").read_text()
    table = table[table.index("[debian13]") :]
    table = re.sub(r"trees = \[.*?\]", f'trees = ["{tmp_path}/tree"]', table, flags=re.DOTALL)
    table = table.replace("netboot/debian-installer/amd64/", "")
    table = table.replace("debian.preseed", "answers.preseed")
    (tmp_path / "recipes.toml").write_text(table)
    monkeypatch.setenv("IMAGE_PIPELINE_BUILD", str(tmp_path / "build"))
    recipe = choose_recipe(load_recipes(tmp_path / "recipes.toml"), "debian13")
    manifest = build(
        BuildRequest(recipe=recipe, variables={"upgrade": "none"}), PlainProgress(), Secrets()
    )
    assert manifest.boot.kernel_version.endswith("cloud-amd64")
    assert "VolGroup/lv_root" in manifest.source.volume
    assert not [warning for warning in manifest.customization.warnings if "RESUME" in warning]
    (check,) = manifest.checks
    assert check.passed
