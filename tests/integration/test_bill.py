"""Bills of materials of real roots and builds, against dpkg, rpm and the formats' validators."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packageurl import PackageURL

from pipeline.builds import bill
from pipeline.builds.manifest import Manifest
from pipeline.core.image import Role
from pipeline.guest import inventory
from pipeline.guest.inventory import Inventory
from tests.fixtures import documents
from tests.fixtures.demo import Demo, invoke
from tests.fixtures.disks import debian_root_tarball
from tests.fixtures.finished import artifact, finished_build

pytestmark = pytest.mark.integration

SPEC = """Name: {name}
Epoch: 2
Version: 1.2
Release: 4
Summary: a test
License: {licence}
Vendor: Example Project
BuildArch: noarch
{more}
%description
a test
%files
"""


def run(*argv: str | Path) -> str:
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=300)
    return done.stdout


def taken(root: Path, image: Path, size: str = "256M") -> Inventory:
    """The inventory of the directory's content in a file system."""
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", root, image, size)
    return inventory.take(image, "ext4")


def written(directory: Path, contents: Inventory) -> tuple[dict[str, Any], list[PackageURL]]:
    """The CycloneDX document and its packages' URLs; both bills are valid and tell the same."""
    finished_build(directory, listing=contents)
    paths = bill.rewrite(directory)
    cyclonedx = documents.cyclonedx(paths["cyclonedx"])
    urls = [part["purl"] for part in cyclonedx["components"] if "purl" in part]
    spdx = documents.spdx(paths["spdx"])
    contained = {
        str(r.related_spdx_element_id)
        for r in spdx.relationships
        if r.relationship_type.name == "CONTAINS"
    }
    assert urls == [
        package.external_references[0].locator
        for package in spdx.packages
        if package.spdx_id in contained
    ]
    return cyclonedx, [PackageURL.from_string(url) for url in urls]


def test_a_debian_root_has_the_packages_that_dpkg_lists(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    places = ("./var/lib/dpkg", "./usr/lib/os-release", "./etc/os-release")
    run("tar", "-x", "-C", root, "--no-same-owner", "-f", debian_root_tarball(), *places)
    contents = taken(root, tmp_path / "image")
    fields = ("Package", "Version", "Architecture", "source:Package", "source:Version")
    form = "|".join(f"${{{name}}}" for name in (*fields, "Maintainer"))
    said = run(
        "dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", f"{form}|${{Status}}\n"
    ).splitlines()  # fmt: skip
    installed = [line.rpartition("|")[0] for line in said if line.endswith(" installed")]
    assert sorted("|".join(package[:6]) for package in contents.packages) == sorted(installed)
    assert contents.system["ID"] == "debian"

    names = [package.name for package in contents.packages]
    needed = {
        package.name: {names[index] for index in package.depends} for package in contents.packages
    }
    assert {"libc6", "libapt-pkg6.0", "gpgv"} <= needed["apt"]
    assert "mawk" in needed["base-files"]  # it asks for awk, which mawk provides
    depends = run(
        "dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f",
        "${Package}|${Pre-Depends}${Depends}\n",
    )  # fmt: skip
    for line in depends.splitlines():
        name, _, words = line.partition("|")
        assert bool(needed.get(name)) == bool(words) or name not in needed, line

    _, urls = written(tmp_path / "build" / "debian", contents)
    assert sorted(f"{url.name}|{url.version}|{url.qualifiers['arch']}" for url in urls) == sorted(
        "|".join(line.split("|")[:3]) for line in installed
    )
    assert {(url.type, url.namespace, url.qualifiers["distro"]) for url in urls} == {
        ("deb", "debian", "debian-12")
    }


def test_an_rpm_root_has_the_packages_that_rpm_lists(tmp_path: Path) -> None:
    root = tmp_path / "root"
    database = root / "usr/lib/sysimage/rpm"
    database.mkdir(parents=True)
    (root / "usr/lib/os-release").write_text('ID="rocky"\nVERSION_ID="9.4"\n')
    rpm = ("rpm", "--define", f"_dbpath {database}", "--define", "_db_backend sqlite")
    run(*rpm, "--initdb")
    wanted = {
        "app": ("GPLv2+ and BSD", "Requires: feature = 1, lib >= 2:1, (lib if lib)"),
        "lib": ("MIT AND Zlib", "Provides: feature = 1"),
    }
    for name, (licence, more) in wanted.items():
        spec = tmp_path / f"{name}.spec"
        spec.write_text(SPEC.format(name=name, licence=licence, more=more))
        run("rpmbuild", "-bb", "--define", f"_topdir {tmp_path}/top", spec)
    files = sorted((tmp_path / "top").rglob("*.rpm"))
    run(*rpm, "-i", "--justdb", "--nodeps", "--ignorearch", *files)
    contents = taken(root, tmp_path / "image")

    document, urls = written(tmp_path / "build" / "rocky", contents)
    form = "%{NAME}|%{VERSION}-%{RELEASE}|%{EPOCH}|%{ARCH}|%{SOURCERPM}\n"
    names = ("epoch", "arch", "upstream")
    assert [
        "|".join((url.name, str(url.version), *(url.qualifiers[name] for name in names)))
        for url in urls
    ] == sorted(run(*rpm, "-qa", "--qf", form).splitlines())
    assert {(url.type, url.namespace) for url in urls} == {("rpm", "rocky")}
    parts = {part["name"]: part for part in document["components"]}
    assert parts["app"]["licenses"] == [{"license": {"name": "GPLv2+ and BSD"}}]
    assert parts["lib"]["licenses"] == [{"expression": "MIT AND Zlib"}]
    assert parts["lib"]["supplier"] == {"name": "Example Project"}
    needs = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    assert needs[parts["app"]["bom-ref"]] == [parts["lib"]["bom-ref"]]


def test_a_build_whose_inventory_knew_less_is_looked_through_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(
        "Package: app\nStatus: install ok installed\nVersion: 2\nSource: origin (1)\n"
    )
    contents = taken(root, tmp_path / "image", "8M")
    content = (tmp_path / "image").read_bytes()
    directory = tmp_path / "build" / "old"
    plain = tuple(package._replace(source="", source_version="") for package in contents.packages)
    finished_build(directory, root=content)
    earlier = Inventory(contents.entries, plain, "dpkg", "", 1, 2, {}, schema=1)
    (directory / inventory.FILE).write_bytes(inventory.dump(earlier))
    assert '"origin"' in bill.read_documents(directory)["spdx"]
    # Another file under the name is not what the manifest speaks of.
    artifact(directory, Role.MACHINE, content[:-1] + b"x")
    assert '"origin"' not in bill.read_documents(directory)["spdx"]


def test_a_build_leaves_valid_documents_of_its_own_files(finished_demo: Demo) -> None:
    directory = finished_demo.directory / "build" / "demo"
    manifest = Manifest.model_validate_json((directory / "manifest.json").read_text())
    files = {record.file: record.sha256 for record in manifest.artifacts}

    spdx = documents.spdx(directory / "demo.spdx.json")
    assert {p.file_name: p.checksums[0].value for p in spdx.packages} == files
    (contained,) = [r for r in spdx.relationships if r.relationship_type.name == "CONTAINS"]
    assert contained.comment == "neither a dpkg nor an rpm database was found"
    cyclonedx = documents.cyclonedx(directory / "demo.cdx.json")
    assert [each["aggregate"] for each in cyclonedx["compositions"]] == ["unknown"]
    statement = documents.provenance(directory / "provenance.json")
    assert {s["name"]: s["digest"]["sha256"] for s in statement["subject"]} == files

    # What was installed from is the very installer and answer file.
    definition = statement["predicate"]["buildDefinition"]
    known = {m["name"]: m["digest"]["sha256"] for m in definition["resolvedDependencies"]}
    answers = hashlib.sha256((directory / "ks.cfg").read_bytes()).hexdigest()
    assert known["ks.cfg"] == answers
    assert set(known) == {"ks.cfg", "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"}
    # Nothing leads to this host.
    for name in ("demo.spdx.json", "demo.cdx.json", "provenance.json"):
        text = (directory / name).read_text()
        assert str(finished_demo.directory) not in text
        assert str(Path.home()) not in text or str(Path.home()) == "/"


def test_a_run_that_does_nothing_leaves_the_documents_and_brings_back_lost_ones(
    finished_demo: Demo, tmp_path: Path
) -> None:
    demo = finished_demo.clone(tmp_path)
    directory = demo.directory / "build" / "demo"
    names = ("demo.spdx.json", "demo.cdx.json", "provenance.json")
    before = {name: (directory / name).read_bytes() for name in names}
    times = {name: (directory / name).stat().st_mtime_ns for name in names}
    done = invoke(tmp_path, "build", "demo")
    assert done.returncode == 0, done.stderr
    assert {name: (directory / name).stat().st_mtime_ns for name in names} == times
    (directory / names[0]).unlink()
    assert invoke(tmp_path, "build", "demo").returncode == 0
    assert {name: (directory / name).read_bytes() for name in names} == before
    for name in names:
        (directory / name).unlink()
    done = invoke(tmp_path, "sbom", "demo", "--json")
    assert set(json.loads(done.stdout).values()) == {str(directory / name) for name in names}
    assert {name: (directory / name).read_bytes() for name in names} == before


def test_one_document_can_be_printed_and_written_elsewhere(
    finished_demo: Demo, tmp_path: Path
) -> None:
    directory = finished_demo.directory / "build" / "demo"
    done = invoke(finished_demo.directory, "sbom", "demo", "--format", "cyclonedx")
    assert done.stdout == (directory / "demo.cdx.json").read_text()
    out = tmp_path / "x.spdx.json"
    done = invoke(finished_demo.directory, "sbom", "demo", "--format", "spdx", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert out.read_text() == (directory / "demo.spdx.json").read_text()
    for words in (("--format", "swid"), ("--out", str(out)), ()):
        name = "demo@previous" if not words else "demo"
        done = invoke(finished_demo.directory, "sbom", name, *words)
        assert done.returncode == 2, done.stdout
    done = invoke(finished_demo.directory, "build", "demo", IMAGE_PIPELINE_BUILDER="no URI")
    assert done.returncode == 2
    assert "IMAGE_PIPELINE_BUILDER" in done.stderr
