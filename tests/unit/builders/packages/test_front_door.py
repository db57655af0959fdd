"""A few words make a system; what they leave unsaid is the distribution's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.builders.packages.complete import complete
from pipeline.builders.packages.front_door import (
    base,
    checked,
    key_package,
    repositories,
    repository,
)
from pipeline.core.architecture import Architecture
from pipeline.core.errors import InputError
from pipeline.core.packages import BACKENDS, PackageSystem
from pipeline.core.recipe import Recipe
from pipeline.core.request import BuildRequest, PackageSources

KEY = Path("/keys/k.gpg")
PUBLIC = [name for name in BACKENDS if name != "el"]


def system(
    distribution: str,
    release: str,
    *,
    named: tuple[str, ...] = (),
    keys: tuple[Path, ...] = (),
    **fields: object,
) -> PackageSystem:
    """What a recipe of these words is once all that it leaves unsaid is filled in."""
    words = {"distribution": distribution, "release": release, **fields}
    said = checked(PackageSystem, words, distribution)
    recipe = Recipe(name="box", description="", source="packages", system=said)
    sources = PackageSources(repositories=named, keys=keys)
    return complete(BuildRequest(recipe, sources=sources)).system


@pytest.mark.parametrize("distribution", PUBLIC)
@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_every_public_distribution_has_defaults(
    distribution: str, architecture: Architecture
) -> None:
    made = system(distribution, "9", architecture=architecture, packages=("nano",), keys=(KEY,))
    assert made.packages == ("nano",)
    assert any(name.startswith(("linux-image", "kernel")) for name in made.base)
    assert "openssh-server" in made.base
    for place in made.repositories:
        assert place.keys
        for url in place.urls:
            assert "{" not in url
            assert url.startswith(("https://", "http://"))
        assert bool(place.suites) == (made.backend == "apt")
    assert key_package(distribution)


def test_debian_has_its_security_from_the_mirror_or_from_debian() -> None:
    main, updates, security = repositories("debian", "bookworm", mirror="http://m.example/debian/")
    assert (main.urls, main.suites) == (("http://m.example/debian",), ("bookworm",))
    assert updates.suites == ("bookworm-updates",)
    assert security.suites == ("bookworm-security",)
    assert security.urls == (
        "http://m.example/debian-security",
        "https://security.debian.org/debian-security",
    )


def test_sid_has_one_suite() -> None:
    assert [place.suites for place in repositories("debian", "sid")] == [("sid",)]


def test_a_snapshot_pins_all_of_debian() -> None:
    time = "20260101T000000Z"
    urls = [p.urls for p in repositories("debian", "bookworm", snapshot=time)]
    archive = "https://snapshot.debian.org/archive/debian"
    assert urls == [
        (f"{archive}/{{snapshot}}",),
        (f"{archive}/{{snapshot}}",),
        (f"{archive}-security/{{snapshot}}",),
    ]
    with pytest.raises(InputError, match="keeps no states"):
        repositories("rocky", "9", snapshot=time)
    (first, *_) = repositories("rocky", "9", mirror="https://m/{snapshot}", snapshot=time)
    assert first.urls == ("https://m/{snapshot}/9/BaseOS/x86_64/os/",)


def test_ubuntu_for_arm_lies_elsewhere() -> None:
    (place,) = repositories("ubuntu", "noble", "aarch64")
    assert place.urls == ("http://ports.ubuntu.com/ubuntu-ports",)


def test_the_key_of_a_minor_release_is_that_of_the_major_one() -> None:
    assert repositories("rocky", "9.4")[0].keys[0].name == "RPM-GPG-KEY-Rocky-9"


def test_keys_of_the_users_come_first() -> None:
    assert {place.keys for place in repositories("fedora", "43", keys=(KEY,))} == {(KEY,)}


@pytest.mark.parametrize(
    ("distribution", "said"),
    [
        ("el", "Name repositories and their keys"),
        ("debain", "did you mean debian?"),
        ("gentoo", "Choose one of debian"),
    ],
)
def test_no_defaults(distribution: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        repositories(distribution, "9")
    assert said in str(caught.value)


def test_an_el_of_named_repositories() -> None:
    made = system("el", "9", named=("baseos=https://m/BaseOS", "https://m/App"), keys=(KEY,))
    assert [(p.name, p.urls) for p in made.repositories] == [
        ("baseos", ("https://m/BaseOS",)),
        ("repository2", ("https://m/App",)),
    ]
    with pytest.raises(InputError, match="no key is named"):
        system("el", "9", named=("https://m/BaseOS",))


@pytest.mark.parametrize(
    "word", ["deb https://m/debian bookworm main contrib", "https://m/debian bookworm main contrib"]
)
def test_a_line_of_sources_list(word: str) -> None:
    made = repository(word, 1, "debian", (KEY,))
    assert (made.urls, made.suites) == (("https://m/debian",), ("bookworm",))
    assert made.components == ("main", "contrib")


@pytest.mark.parametrize(
    ("word", "distribution"),
    [
        ("", "debian"),
        ("https://m/debian", "debian"),
        ("https://m/debian bookworm", "debian"),
        ("ppa:who/what", "ubuntu"),
        ("", "rocky"),
        ("BaseOS", "rocky"),
        ("https://m/a https://m/b", "rocky"),
        ("Base OS=https://m/a", "rocky"),
        ("BASE!=https://m/a", "rocky"),
    ],
)
def test_words_that_are_no_repository(word: str, distribution: str) -> None:
    with pytest.raises(InputError):
        repository(word, 1, distribution, (KEY,))


def test_a_wrong_field_is_told_with_its_name() -> None:
    with pytest.raises(InputError, match="hostname: "):
        system("debian", "bookworm", hostname="-x")


def test_the_network_client_is_the_releases() -> None:
    assert "isc-dhcp-client" in base("debian", "bookworm")
    assert "dhcpcd-base" in base("debian", "trixie")
    assert "kernel-core" in base("el", "9")
