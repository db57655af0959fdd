"""What recipes, images and services call an architecture."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.core import architecture
from pipeline.core.architecture import WORDS, known, words
from pipeline.core.checks import NOVA_COMMAND_LINE, nova_command_line
from pipeline.core.hardware import USUAL_HARDWARE, Hardware
from pipeline.core.recipe import Recipe

BASE = {"name": "box", "description": "d", "answers": "a.ks"}


def recipe(**fields: object) -> Recipe:
    return Recipe.model_validate(BASE | fields, strict=False)


def test_each_service_gets_its_own_word() -> None:
    arm, x86 = words("aarch64"), words("x86_64")
    # Nova knows amd64 and no arm64; EC2 and the products of simplestreams know no aarch64.
    assert (arm.glance, arm.ec2, arm.stream, arm.debian) == ("aarch64", "arm64", "arm64", "arm64")
    assert arm.bundle == "aarch64", "OpenStack's ec2-api hands a bundle's word on to Nova"
    assert (x86.glance, x86.ec2, x86.stream, x86.debian) == ("x86_64", "x86_64", "x86_64", "amd64")
    assert (arm.loader, x86.loader) == ("BOOTAA64.EFI", "BOOTX64.EFI")


def test_a_name_of_a_later_release_is_handed_on() -> None:
    assert words("riscv64").glance == words("riscv64").ec2 == "riscv64"
    assert known("riscv64") == "x86_64"


def test_what_stands_in_a_catalogue_is_read_back() -> None:
    for name in WORDS:
        assert architecture.from_stream(words(name).stream) == name
    assert architecture.from_stream("amd64") == "x86_64"


def test_the_default_command_line_names_the_serial_port_of_the_architecture() -> None:
    assert recipe().command_line == "root=LABEL=uec-rootfs ro console=tty0 console=ttyS0"
    arm = recipe(architecture="aarch64")
    assert arm.command_line == "root=LABEL=uec-rootfs ro console=tty0 console=ttyAMA0"
    assert arm.hardware.architecture == "aarch64"
    assert arm.hardware.machine_type == "virt"


@pytest.mark.parametrize(
    "line",
    ["root=LABEL=x console=ttyS0", "root=LABEL=x console=ttyAMA0 console=tty0", "console=hvc0"],
)
def test_a_line_whose_console_nobody_reads_is_refused(line: str) -> None:
    with pytest.raises(ValidationError, match="End it with console=ttyAMA0"):
        recipe(architecture="aarch64", command_line=line)
    assert recipe(command_line=line).command_line == line


@pytest.mark.parametrize(
    "line",
    ["root=LABEL=x", "root=LABEL=x console=tty0 console=ttyAMA0,115200n8 quiet"],
)
def test_a_line_that_the_serial_port_follows_is_taken(line: str) -> None:
    assert recipe(architecture="aarch64", command_line=line).command_line == line


@pytest.mark.parametrize("word", ["arm64", "amd64", "riscv64", 3, None])
def test_another_word_is_no_architecture(word: object) -> None:
    with pytest.raises(ValidationError, match="architecture"):
        recipe(architecture=word)


def test_novas_line_is_its_own_where_it_names_the_port() -> None:
    assert nova_command_line(USUAL_HARDWARE) == NOVA_COMMAND_LINE
    arm = nova_command_line(Hardware.of({"hw_disk_bus": "scsi"}, "aarch64"))
    assert arm == "root=/dev/sda console=tty0 console=ttyS0 console=ttyAMA0"
