from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.builders.installer.trees import TreeError, wanted_files
from pipeline.builders.recipes import load_recipes
from pipeline.core import settings
from pipeline.host.download import guest_url, has_password, masked

SHIPPED = {
    name: recipe
    for name, recipe in load_recipes(settings.recipes_file()).items()
    if recipe.source == "install"
}
DIGEST = "a" * 64


def treeinfo(**sums: str) -> str:
    lines = ["[images-x86_64]", "kernel = k", "initrd = i", "[checksums]"]
    return "\n".join([*lines, *(f"{name} = {value}" for name, value in sums.items())])


def test_kernel_and_initrd_of_a_treeinfo() -> None:
    kernel, initrd = wanted_files(
        SHIPPED["fedora15"], treeinfo(k=f"sha256:{DIGEST}", i=f"sha512:{'B' * 128}"), "tree"
    )
    assert (kernel.path, kernel.algorithm, kernel.digest) == ("k", "sha256", DIGEST)
    assert (initrd.algorithm, initrd.digest) == ("sha512", "b" * 128)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (treeinfo(k=f"sha256:{DIGEST}"), "no checksum of i"),
        (treeinfo(k=f"sha256:{DIGEST}", i=f"md5:{'a' * 32}"), "no checksum of i"),
        ("no section", "malformed"),
        (treeinfo().replace("kernel = k", "kernel = ../../etc/passwd"), "names the file"),
        (treeinfo().replace("kernel = k", "kernel = /etc/passwd"), "names the file"),
        (treeinfo().replace("kernel = k", "kernel ="), "names the file"),
    ],
)
def test_a_treeinfo_that_cannot_be_used(text: str, said: str) -> None:
    with pytest.raises(TreeError, match=said):
        wanted_files(SHIPPED["fedora15"], text, "tree")


def test_debian_names_its_sums_in_a_list() -> None:
    recipe = SHIPPED["debian13"]
    text = f"{DIGEST}  ./{recipe.kernel}\n{'b' * 64} *{recipe.initrd}\nnoise\n"
    kernel, initrd = wanted_files(recipe, text, "tree")
    assert (kernel.path, kernel.digest) == (recipe.kernel, DIGEST)
    assert initrd.digest == "b" * 64


@given(st.text(max_size=200))
def test_any_text_is_refused_in_an_orderly_way(text: str) -> None:
    for name in ("fedora15", "debian13"):
        with pytest.raises(TreeError):
            wanted_files(SHIPPED[name], text, "tree")


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://localhost:80/x?y", "http://10.0.2.2:80/x?y"),
        ("http://127.0.0.1/x", "http://10.0.2.2/x"),
        ("http://[::1]:8/x", "http://10.0.2.2:8/x"),
        ("http://a:b@localhost:8/x", "http://a:b@10.0.2.2:8/x"),
        ("https://mirror.example/x", "https://mirror.example/x"),
    ],
)
def test_the_loopback_as_the_guest_sees_it(url: str, seen: str) -> None:
    assert guest_url(url) == seen


def test_passwords_are_masked() -> None:
    assert masked("http://ann:hunter2@host/p") == "http://ann:****@host/p"
    assert masked("http://ann@host/p") == "http://ann@host/p"
    assert masked("http://host/a:b@c") == "http://host/a:b@c"
    assert has_password(" --proxy=http://ann:hunter2@host:3128")
    assert not has_password("http://host/a:b@c")
    assert not has_password("")


def test_every_shipped_recipe_can_find_its_tree() -> None:
    for recipe in SHIPPED.values():
        assert recipe.trees or recipe.installer == "stand-in"
        assert all("://" in tree for tree in recipe.trees)
        assert not Path(recipe.kernel).is_absolute()
