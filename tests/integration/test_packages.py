"""Images from packages as a user makes them: Debian from its mirror, RPMs of a repository here."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.demo import command, environment, invoke
from tests.fixtures.rpm_repository import Repository, make_key, make_repository
from tests.fixtures.simplestreams_reader import read_mirror
from tests.servers.openstack_cloud import Endpoints

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]
RECIPE = """
[debian]
description = "Debian with a package of its own"
source = "packages"
distribution = "debian"
release = "bookworm"
packages = [{packages}]
timezone = "Europe/Zurich"
root_mib = 1024
command_line = "root=LABEL=uec-rootfs ro net.ifnames=0 console=tty0 console=ttyS0"
verify_minutes = 20
"""
FIRST, MORE = '"jq"', '"jq", "tree"'


@dataclass
class Site:
    """A user's directory, with what the product writes kept inside it."""

    directory: Path

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        kept = {
            "IMAGE_PIPELINE_RECIPES": str(self.directory / "recipes.toml"),
            "IMAGE_PIPELINE_CACHE": str(self.directory / "cache"),
        }
        done = subprocess.run(
            command(*words),
            cwd=self.directory,
            env=environment(self.directory, **(kept | more)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    def recipes(self, packages: str) -> None:
        (self.directory / "recipes.toml").write_text(RECIPE.format(packages=packages))

    def manifest(self, name: str, build: str = "build") -> dict[str, Any]:
        path = self.directory / build / name / "manifest.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def digests(manifest: dict[str, Any]) -> dict[str, str]:
    return {record["role"]: record["sha256"] for record in manifest["artifacts"]}


def layers(manifest: dict[str, Any]) -> dict[str, str]:
    return {layer["kind"]: layer["key"] for layer in manifest["source"]["layers"]}


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A Debian that was built, boot-checked and registered."""
    site = Site(tmp_path_factory.mktemp("packages"))
    site.recipes(FIRST)
    site.run("build", "debian", "upload")
    return site


def test_debian_boots_and_is_registered(debian: Site) -> None:
    manifest = debian.manifest("debian")
    assert manifest["source"]["kind"] == "packages"
    assert list(layers(manifest)) == ["core", "base", "image"]
    assert [check["passed"] for check in manifest["checks"]] == [True]
    found = {item["sha256"] for item in read_mirror(debian.directory / "catalogue")}
    assert found == set(digests(manifest).values())


def test_debian_goes_to_glance(debian: Site, openstack_cloud: Endpoints) -> None:
    """Real Glance with Keystone: the three files, linked, with the words that Nova reads."""
    kept = {"OS_CLIENT_CONFIG_FILE": openstack_cloud.clouds_yaml}
    words = ["upload", "--recipe", "debian", "--cloud", "glance:demo"]
    assert "debian registered" in debian.run(*words, **kept).stdout
    assert "already there" in debian.run(*words, **kept).stdout


@pytest.mark.long
@pytest.mark.parametrize("release", ["trixie", "forky"])
def test_other_releases_boot(release: str, tmp_path: Path) -> None:
    site = Site(tmp_path)
    text = RECIPE.format(packages=FIRST).replace('"bookworm"', f'"{release}"')
    # A mirror may keep the list of a suite in the making for longer than that list is valid.
    late = "check_valid_until = false\n" if release == "forky" else ""
    (tmp_path / "recipes.toml").write_text(text + late)
    site.run("build", "debian", "upload")
    assert [check["passed"] for check in site.manifest("debian")["checks"]] == [True]


@pytest.mark.long
def test_debian_for_aarch64_boots(tmp_path: Path) -> None:
    """Emulated, packages' scripts and guest alike: half an hour on two processors at rest."""
    site = Site(tmp_path)
    (tmp_path / "recipes.toml").write_text(
        RECIPE.format(packages="").replace("verify_minutes = 20", "verify_minutes = 60")
        .replace("console=ttyS0", "console=ttyAMA0") + 'architecture = "aarch64"\n'
    )  # fmt: skip
    site.run("build", "debian", "upload")
    assert site.manifest("debian")["boot"]["architecture"] == "aarch64"
    assert [check["passed"] for check in site.manifest("debian")["checks"]] == [True]


def test_what_is_in_it_is_written_down(debian: Site) -> None:
    build = debian.directory / "build" / "debian"
    image = build / "debian.img"
    status = subprocess.run(
        ["debugfs", "-R", "cat /var/lib/dpkg/status", image], capture_output=True, check=True
    ).stdout.decode()
    installed = {line.split()[1] for line in status.splitlines() if line.startswith("Package: ")}
    document = json.loads((build / "debian.spdx.json").read_text())
    assert installed <= {package["name"] for package in document["packages"]}
    provenance = json.loads((build / "provenance.json").read_text())
    named = json.dumps(provenance["predicate"]["buildDefinition"]["resolvedDependencies"])
    assert all(f'"{name} ' in named for name in ("jq", "libc6", "openssh-server"))


def test_nothing_of_the_build_is_in_it(debian: Site) -> None:
    image = debian.directory / "build" / "debian" / "debian.img"
    for place in ("/var/lib/apt/lists", "/var/cache/apt", "/var/log", "/etc/machine-id"):
        listed = subprocess.run(
            ["debugfs", "-R", f"ls -p {place}", image], capture_output=True, check=True, text=True
        ).stdout
        for line in filter(None, listed.splitlines()):
            _, _, mode, *_, name, size, _ = line.split("/")
            assert not mode.startswith("10") or size in ("", "0"), f"{place} has {name}"


def test_what_did_not_change_is_not_made_again(debian: Site) -> None:
    again = debian.run("build", "debian", "upload")
    assert "nothing to do for debian" in again.stdout
    assert "already there" in again.stdout


def test_a_package_more_makes_the_image_layer_alone(debian: Site) -> None:
    before = debian.manifest("debian")
    debian.recipes(MORE)
    try:
        done = debian.run("build", "debian", "--no-verify", IMAGE_PIPELINE_BUILD="more")
    finally:
        debian.recipes(FIRST)
    after = debian.manifest("debian", "more")
    assert "making the image layer of 4 packages" in done.stderr, "jq, what it needs, and tree"
    assert "core layer" not in done.stderr
    assert "base layer" not in done.stderr
    assert {k: v for k, v in layers(after).items() if k != "image"} == {
        k: v for k, v in layers(before).items() if k != "image"
    }
    assert digests(after)["kernel"] == digests(before)["kernel"]
    assert digests(after)["ramdisk"] == digests(before)["ramdisk"]
    assert digests(after)["machine"] != digests(before)["machine"]


def test_another_host_makes_the_same_bytes(debian: Site, tmp_path: Path) -> None:
    """Another directory, time zone, language, umask and number of processors; nothing cached."""
    other = Site(tmp_path / "a rather different place")
    other.directory.mkdir()
    other.recipes(FIRST)
    state = debian.directory / "cache" / "packages"
    (other.directory / "cache").mkdir()
    # The repositories as they were: a mirror may be renewed between the two.
    subprocess.run(["cp", "-a", state, other.directory / "cache"], check=True)
    before = os.umask(0o077)
    try:
        other.run("build", "debian", "--no-verify", TZ="Asia/Tokyo", LANG="C", LC_ALL="C")
    finally:
        os.umask(before)
    assert digests(other.manifest("debian")) == digests(debian.manifest("debian"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return make_repository(tmp_path_factory.mktemp("rpm"))


def named(repository: Repository) -> list[str]:
    assert repository.key is not None
    where = f"base=file://{repository.directory}"
    return ["--repository", where, "--key", str(repository.key.public)]


ENTERPRISE = """
[el]
description = "An Enterprise Linux in miniature"
source = "packages"
distribution = "el"
release = "9"
groups = ["@core"]
base = ["kernel", "openssh-server"]
root_mib = 512
{more}
"""


def test_rpms_boot_and_are_registered(tmp_path: Path, repository: Repository) -> None:
    site = Site(tmp_path)
    (tmp_path / "recipes.toml").write_text(ENTERPRISE.format(more=""))
    site.run("build", "el", *named(repository), "upload")
    manifest = site.manifest("el")
    assert [check["passed"] for check in manifest["checks"]] == [True]
    document = json.loads((tmp_path / "build" / "el" / "el.cdx.json").read_text())
    assert {"bash", "filesystem"} <= {part["name"] for part in document["components"]}


def test_a_kickstart_without_its_installer(tmp_path: Path, repository: Repository) -> None:
    site = Site(tmp_path)
    (tmp_path / "node.ks").write_text(
        "text\nlang C.UTF-8\nrootpw --lock\ntimezone Etc/UTC --utc\n"
        "user --name=operator --uid=2000\npart / --size=512\n"
        "%packages\n@core\nkernel\nopenssh-server\n%end\n"
        "%pre\necho only an installer runs this\n%end\n"
        "%post\necho made > /etc/node\n%end\n"
    )
    (tmp_path / "recipes.toml").write_text(
        ENTERPRISE.format(more='kickstart = "node.ks"').replace('groups = ["@core"]\n', "")
    )
    done = site.run("build", "el", "--no-verify", *named(repository))
    assert "%pre" in done.stderr, "what is left out is told"
    image = tmp_path / "build" / "el" / "el.img"
    read = {
        path: subprocess.run(
            ["debugfs", "-R", f"cat {path}", image], capture_output=True, check=True, text=True
        ).stdout
        for path in ("/etc/node", "/etc/passwd")
    }
    assert read["/etc/node"] == "made\n"
    assert "\noperator:x:2000:" in read["/etc/passwd"]


def test_no_guest_no_accelerator(tmp_path: Path, repository: Repository) -> None:
    """A host that can run no guest makes images of packages all the same, in odd directories."""
    site = Site(tmp_path / 'a "dir" of [mine], größer*')
    site.directory.mkdir()
    (site.directory / "recipes.toml").write_text(ENTERPRISE.format(more=""))
    (site.directory / "json.py").write_text("raise SystemExit('a module of the user')\n")
    site.run("build", "el", "--no-verify", *named(repository), IMAGE_PIPELINE_ACCEL="broken")
    assert site.manifest("el")["acceleration"] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_layers_where_no_program_may_run(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "recipes.toml").write_text("")
    place = tmp_path / "layers"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,size=9m", "none", place], check=True)
    try:
        kept = {
            "IMAGE_PIPELINE_LAYERS": str(place),
            "IMAGE_PIPELINE_CACHE": str(tmp_path / "cache"),
        }
        done = invoke(tmp_path, "genfs", "el", "9", "root.tar.gz", *named(repository), **kept)
        assert (done.returncode, list(place.iterdir())) == (3, [])
        assert "noexec" in done.stderr
    finally:
        subprocess.run(["umount", place], check=True)


def test_layers_of_packages_that_another_key_signed_are_not_used(
    tmp_path: Path, repository: Repository
) -> None:
    """The usual repository of RPMs signs its packages alone: nothing else can tell."""
    unsigned, other = tmp_path / "unsigned", make_key(tmp_path / "other", "O <o@example.org>")
    shutil.copytree(repository.directory, unsigned)
    (unsigned / "repodata/repomd.xml.asc").unlink()
    site = Site(tmp_path)
    (tmp_path / "recipes.toml").write_text("")
    words = ["genfs", "el", "9", "root.tar.gz", "--repository", f"base=file://{unsigned}"]
    assert repository.key is not None
    site.run(*words, "--key", str(repository.key.public))
    (tmp_path / "root.tar.gz").unlink()
    kept = {"IMAGE_PIPELINE_CACHE": str(tmp_path / "cache")}
    done = invoke(tmp_path, *words, "--key", str(other.public), **kept)
    assert done.returncode == 2
    assert "none of the recipe's" in done.stderr
    assert not (tmp_path / "root.tar.gz").exists()


def test_one_line_makes_a_tar(tmp_path: Path, repository: Repository) -> None:
    site = Site(tmp_path)
    (tmp_path / "recipes.toml").write_text("")
    words = ["genfs", "el", "9", "root.tar.gz", "--group", "@core", *named(repository), "--json"]
    answer = json.loads(site.run(*words).stdout)
    archive = tmp_path / "root.tar.gz"
    assert answer["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    with tarfile.open(fileobj=gzip.open(archive)) as content:
        names = {member.name.removeprefix("./") for member in content}
    assert {"usr/bin/bash", "etc/passwd"} <= names
    site.run(*words[:3], "again.tar.gz", *words[4:])
    assert (tmp_path / "again.tar.gz").read_bytes() == archive.read_bytes()


def test_words_that_cannot_work(tmp_path: Path) -> None:
    done = invoke(tmp_path, "genfs", "debain", "bookworm", "root.tar.gz")
    assert done.returncode == 2
    assert "debian" in done.stderr
    assert not list(tmp_path.glob("*.tar.gz"))
    words = ["--repository", "http://bob:s3cret@[::1 bookworm main", "--key", "k"]
    for more in (words, ["--mirror", "http://bob:s3cret@[::1"]):
        done = invoke(tmp_path, "genfs", "debian", "bookworm", "root.tar.gz", *more)
        assert (done.returncode, "no URL" in done.stderr, "s3cret" in done.stderr) == (
            2, True, False,
        )  # fmt: skip
    done = invoke(tmp_path, "genfs", "debian", "bookworm", ".")
    assert (done.returncode, "is a directory" in done.stderr) == (2, True)
