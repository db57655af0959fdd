"""What the words of `convert` mean, before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.convert.formats.presets import PRESETS
from pipeline.convert.formats.registry import FORMATS
from pipeline.core.errors import InputError
from pipeline.workflows.convert import Wish, find, packing, wanted


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_consumer_decides_format_options_size_and_packing(name: str) -> None:
    preset = PRESETS[name]
    want = wanted(Wish("x", consumer=name))
    assert want.form is FORMATS[preset.format]
    assert (want.options.variant, want.options.compression) == (preset.variant, preset.compression)
    assert want.multiple == max(preset.multiple, 1) and want.pack == preset.pack


def test_the_users_own_words_go_before_the_consumers() -> None:
    want = wanted(Wish("x", consumer="openstack", compression="zstd", pack="xz"))
    assert want.options.compression == "zstd" and want.pack == "xz"
    assert want.suffix == ".qcow2.xz"


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish("x"), "nobody says to what"),
        (Wish("x", form="qcow"), "did you mean qcow2"),
        (Wish("x", form="raw", consumer="azure"), "it takes vhd"),
        (Wish("x", form="vmdk", variant="streem"), "did you mean stream"),
        (Wish("x", form="raw", compression="zstd"), "it has no compressions"),
        (Wish("x", form="raw", pack="gz"), "gzip"),
    ],
)
def test_words_that_do_not_fit_are_explained(wish: Wish, said: str) -> None:
    with pytest.raises(InputError) as caught:
        wanted(wish)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("disk.raw", "disk"),
        ("debian-12.qcow2", "debian-12"),
        ("a.vmdk.gz", "a"),
        ("image.raw.zst", "image"),
        ("plain", "plain"),
        ("v1.2", "v1.2"),
    ],
)
def test_the_new_name_is_the_old_one_without_what_said_its_format(
    file: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(b"")
    assert find(str(tmp_path / file)).name == name


def test_a_url_has_a_name_too() -> None:
    found = find("https://user:word@example.org/images/disk%20one.raw?x=1")
    assert (found.path, found.name) == (None, "disk-20one")


def test_no_packing_is_no_packing() -> None:
    assert packing("") is None
