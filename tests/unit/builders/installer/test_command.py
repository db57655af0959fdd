from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.builders.installer import plan
from pipeline.builders.installer.command import Machine, kernel_arguments, virt_install_argv
from pipeline.builders.recipes import load_recipes
from pipeline.core import settings
from pipeline.core.architecture import WORDS
from pipeline.core.image import Acceleration
from tests.fixtures.goldens import check_golden

SHIPPED = load_recipes(settings.recipes_file())
MACHINE = Machine(
    uri="qemu:///embed?root=/p/libvirt",
    name="box-1",
    uuid="00000000-0000-0000-0000-000000000001",
    accelerator="tcg",
    disk=Path("/p/disk.img"),
    serial=Path("/p/serial"),
    tree=Path("/p/tree"),
    answers=Path("/p/ks.cfg"),
)


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_command_of_each_recipe_is_golden(
    name: str, accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMAGE_PIPELINE_LIBVIRT", raising=False)
    how = Acceleration("kvm" if accelerator == "kvm" else "tcg", "")
    check_golden(
        f"virt-install/{name}.{accelerator}", "\n".join(plan(SHIPPED[name], None, how)) + "\n"
    )


def test_the_type_is_always_passed() -> None:
    argv = virt_install_argv(SHIPPED["demo"], MACHINE)
    assert argv[argv.index("--virt-type") + 1] == "qemu"
    argv = virt_install_argv(SHIPPED["demo"], replace(MACHINE, accelerator="kvm"))
    assert argv[argv.index("--virt-type") + 1] == "kvm"


def test_served_answers_are_not_injected() -> None:
    served = replace(MACHINE, answers="http://10.0.2.2:1/t/ks.cfg")
    argv = virt_install_argv(SHIPPED["fedora43"], served)
    assert "--initrd-inject" not in argv
    assert "inst.ks=http://10.0.2.2:1/t/ks.cfg" in argv[argv.index("--extra-args") + 1].split()
    words = kernel_arguments(SHIPPED["debian13"], served).split()
    assert "url=http://10.0.2.2:1/t/ks.cfg" in words


def test_a_tree_argument_names_the_tree_as_the_guest_sees_it() -> None:
    recipe = SHIPPED["rocky9"].model_copy(update={"tree_argument": "inst.repo"})
    assert "inst.repo" not in kernel_arguments(recipe, MACHINE)
    there = replace(MACHINE, tree_url="http://10.0.2.2/os")
    assert "inst.repo=http://10.0.2.2/os" in kernel_arguments(recipe, there).split()


def test_the_serial_console_is_the_last_one() -> None:
    for recipe in SHIPPED.values():
        consoles = [
            word for word in kernel_arguments(recipe, MACHINE).split() if "console=" in word
        ]
        assert consoles[-1] == f"console={WORDS[recipe.architecture].serial},115200n8"


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_the_command_for_aarch64_is_golden(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMAGE_PIPELINE_LIBVIRT", raising=False)
    there = {
        "name": "debian-arm64",
        "architecture": "aarch64",
        "kernel": "netboot/debian-installer/arm64/linux",
        "initrd": "netboot/debian-installer/arm64/initrd.gz",
        "command_line": "root=LABEL=uec-rootfs ro console=tty0 console=ttyAMA0",
    }
    recipe = SHIPPED["debian13"].model_copy(update=there)
    how = Acceleration("kvm" if accelerator == "kvm" else "tcg", "")
    check_golden(
        f"virt-install/debian-arm64.{accelerator}", "\n".join(plan(recipe, None, how)) + "\n"
    )
