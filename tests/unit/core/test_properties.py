"""Names of properties that are kept by the cloud or the pipeline, wherever they are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.builders.recipes import load_recipes
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.errors import InputError
from pipeline.core.properties import refusal, require_free
from pipeline.workflows.publish import require_options

_RECIPE = '[demo]\ndescription = "x"\nanswers = "demo.ks"\n[demo.properties]\n'


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("owner", "Leave it out"),
        ("Owner", "Leave it out"),
        ("id", "Leave it out"),
        ("size", "Leave it out"),
        ("status", "Leave it out"),
        ("checksum", "Leave it out"),
        ("os_hash_value", "Leave it out"),
        ("os_glance_import_task", "Leave it out"),
        ("locations", "Leave it out"),
        ("os_hidden", "--hidden"),
        ("visibility", "--visibility"),
        ("protected", "--protected"),
        ("tags", "--tag"),
        ("min_disk", "--min-disk"),
        ("min_ram", "--min-ram"),
        ("store", "--store"),
        ("name", "recipe"),
        ("architecture", "recipe"),
        ("kernel_id", "kernel"),
        ("ramdisk_id", "ramdisk"),
        ("disk_format", "--whole-disk"),
        ("container_format", "--whole-disk"),
        ("image_pipeline_key", "the pipeline sets it"),
        ("IMAGE_PIPELINE_anything", "the pipeline sets it"),
        ("a/b", "another name"),
        ("a~1b", "another name"),
        (" note", "another name"),
        ("x" * 256, "another name"),
    ],
)
def test_taken_names_are_refused_with_what_to_do_instead(
    name: str, instead: str, tmp_path: Path
) -> None:
    found = refusal(name)
    assert found is not None
    assert instead in found[1]
    with pytest.raises(InputError, match="image property"):
        require_options(PublishOptions(properties={"os_distro": "x", name: "1"}))
    (tmp_path / "demo.ks").touch()
    recipes = tmp_path / "recipes.toml"
    recipes.write_text(f'{_RECIPE}os_distro = "x"\n"{name}" = "1"\n')
    with pytest.raises(InputError, match=r"demo\.properties") as caught:
        load_recipes(recipes)
    assert instead in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "os_distro", "os_version", "os_command_line", "hw_disk_bus", "hw:cpu_policy", "owner_team",
        "trait:HW_CPU_X86_AVX2", "image_type", "identifier", "my size", "os_hashing", "x" * 255,
    ],
)  # fmt: skip
def test_other_names_are_free(name: str) -> None:
    require_free({name: "1"})


@pytest.mark.parametrize("tag", ["image_pipeline_key=1", "image_pipeline_x", "aws:cloud=1"])
def test_tags_are_no_way_around(tag: str) -> None:
    """On EC2 the marks are tags, and tags are "key=value"."""
    with pytest.raises(InputError, match="set the tag"):
        require_options(PublishOptions(tags=("nightly", tag)))
    require_options(PublishOptions(tags=("nightly", "pipeline=1")))
