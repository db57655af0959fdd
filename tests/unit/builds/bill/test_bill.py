"""Bills of materials and provenance, judged by the formats' own validators."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packageurl import PackageURL

from pipeline.builds import bill, history
from pipeline.builds.bill.purl import purl, source_purl
from pipeline.builds.manifest import InputsRecord, read_manifest
from pipeline.builds.workspace import document_names
from pipeline.core.errors import BusyError, InputError
from pipeline.core.material import Material
from pipeline.core.resources import PROJECT
from pipeline.guest import inventory
from pipeline.guest.inventory import Inventory, Package
from pipeline.host.locks import exclusive
from tests.fixtures import documents
from tests.fixtures.finished import entry, finished_build, small_inventory, with_disk

BOOKWORM = {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"}
FEDORA = {"ID": "fedora", "VERSION_ID": "43"}


def packages(*of: Package, manager: str = "rpm", unknown: str = "") -> Inventory:
    """A root of these packages, and one file of nobody's."""
    system = FEDORA if manager == "rpm" else BOOKWORM
    return Inventory((entry("/stray", 9),), of, manager, unknown, 1 << 20, 2 << 20, system)


def written(directory: Path, contents: Inventory | None = None) -> Path:
    """A finished build with its documents."""
    finished_build(directory, listing=contents or small_inventory())
    bill.rewrite(directory)
    return directory


def test_the_documents_of_a_build_are_valid_and_tell_its_files_and_packages(
    tmp_path: Path,
) -> None:
    directory = written(tmp_path / "small")
    manifest = with_disk(read_manifest(directory), directory, None)
    bill.rewrite(directory)
    digests = {record.file: record.sha256 for record in manifest.artifacts}
    assert set(digests) == {"small.img", "small-vmlinuz", "small-initrd", "small-disk.raw"}

    spdx = documents.spdx(directory / "small.spdx.json")
    assert {
        package.file_name: package.checksums[0].value
        for package in spdx.packages
        if package.file_name
    } == digests
    parts = {(p.name, p.version) for p in spdx.packages if not p.file_name}
    assert parts == {("bash", "5.2-1"), ("libc6", "2.36-9")}

    cyclonedx = documents.cyclonedx(directory / "small.cdx.json")
    files = [cyclonedx["metadata"]["component"], *cyclonedx["components"]]
    hashed = {part["name"]: part["hashes"][0]["content"] for part in files if "hashes" in part}
    assert hashed == digests
    assert cyclonedx["metadata"]["component"]["name"] == "small.img"

    statement = documents.provenance(directory / "provenance.json")
    assert {s["name"]: s["digest"]["sha256"] for s in statement["subject"]} == digests
    about = statement["predicate"]["runDetails"]["byproducts"]
    assert {each["name"]: each["digest"]["sha256"] for each in about} == {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest()
        for name in ("small.spdx.json", "small.cdx.json")
    }


def test_the_same_build_gives_the_same_documents_and_another_one_others(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a" / "small"), written(tmp_path / "b" / "small")
    assert bill.read_documents(one) == bill.read_documents(two)
    finished_build(two, root=b"another" * 900)
    before, after = bill.read_documents(one), bill.read_documents(two)
    ids = {
        (
            json.loads(texts["spdx"])["documentNamespace"],
            json.loads(texts["cyclonedx"])["serialNumber"],
        )
        for texts in (before, after)
    }
    assert len(ids) == 2


def test_what_a_package_is_made_from_needs_and_is_licensed_by_is_told(tmp_path: Path) -> None:
    directory = written(
        tmp_path / "small",
        packages(
            Package("app", "2:1.0~rc1-3.fc43", "x86_64", "app", "1.0~rc1-3.fc43", "Fedora Project",
                    "GPL-2.0-or-later WITH Classpath-exception-2.0 AND (MIT OR 0BSD)", (1, 2)),
            Package("libone", "1-1", "x86_64", "one", "1-1", "", "GPLv2+ and BSD"),
            Package("libtwo", "1-1", "i686", "one", "1-1", "", "MIT AND LicenseRef-Public"),
            Package("odd+name", "1", "", "", "", "Jane (QA) Doe <jane@example.org>", ""),
        ),
    )  # fmt: skip
    spdx = documents.spdx(directory / "small.spdx.json")
    known = {package.spdx_id: package for package in spdx.packages}
    named = {package.name: package for package in spdx.packages if package.external_references}
    related = {
        (r.relationship_type.name, *(known[str(each)].name for each in ends))
        for r in spdx.relationships
        if (ends := (r.spdx_element_id, r.related_spdx_element_id))[0] in known
    }
    assert {r for r in related if r[0] == "DEPENDS_ON"} == {
        ("DEPENDS_ON", "app", "libone"), ("DEPENDS_ON", "app", "libtwo"),
    }  # fmt: skip
    assert {r for r in related if r[0] == "GENERATED_FROM"} == {
        ("GENERATED_FROM", "app", "app"),
        ("GENERATED_FROM", "libone", "one"), ("GENERATED_FROM", "libtwo", "one"),
    }  # fmt: skip
    assert {r[2] for r in related if r[0] == "CONTAINS"} == {"app", "libone", "libtwo", "odd+name"}
    vendor = named["odd+name"].supplier
    assert (vendor.name, vendor.email) == ("Jane [QA] Doe", "jane@example.org")  # type: ignore[union-attr]
    own_words = {info.extracted_text for info in spdx.extracted_licensing_info}
    assert "GPLv2+ and BSD" in own_words

    cyclonedx = documents.cyclonedx(directory / "small.cdx.json")
    parts = {part["name"]: part for part in cyclonedx["components"]}
    assert parts["libone"]["licenses"] == [{"license": {"name": "GPLv2+ and BSD"}}]
    assert "expression" in parts["app"]["licenses"][0]
    assert "expression" in parts["libtwo"]["licenses"][0]
    assert parts["app"]["pedigree"]["ancestors"][0]["version"] == "1.0~rc1-3.fc43"
    needs = {d["ref"]: d["dependsOn"] for d in cyclonedx["dependencies"]}
    assert needs[parts["app"]["bom-ref"]] == sorted(
        (parts["libone"]["bom-ref"], parts["libtwo"]["bom-ref"])
    )


@pytest.mark.parametrize("contents", [None, packages(manager="", unknown="neither was found")])
def test_a_root_without_packages_is_said_to_be_unknown(
    tmp_path: Path, contents: Inventory | None
) -> None:
    directory = tmp_path / "small"
    manifest = finished_build(directory)
    for form, text in bill.documents(manifest, contents).items():
        (directory / document_names("small")[form]).write_text(text)
    spdx = documents.spdx(directory / "small.spdx.json")
    (contained,) = [r for r in spdx.relationships if r.relationship_type.name == "CONTAINS"]
    assert str(contained.related_spdx_element_id) == "NOASSERTION"
    assert contained.comment == ("neither was found" if contents else
                                 "nobody could tell what the root file system holds")  # fmt: skip
    cyclonedx = documents.cyclonedx(directory / "small.cdx.json")
    assert [each["aggregate"] for each in cyclonedx["compositions"]] == ["unknown"]


_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_NAME = _TEXT.filter(bool)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.builds(Package, _NAME, *[_TEXT] * 6, st.just(())), max_size=6),
    st.sampled_from(("dpkg", "rpm")),
)
def test_no_words_of_a_guest_make_a_document_invalid(
    tmp_path: Path, found: list[Package], manager: str
) -> None:
    directory = tmp_path / "small"
    manifest = finished_build(directory)
    contents = packages(*found, *found, manager=manager)
    for form, text in bill.documents(manifest, contents).items():
        (directory / document_names("small")[form]).write_text(text)
    documents.spdx(directory / "small.spdx.json")
    documents.cyclonedx(directory / "small.cdx.json")


@pytest.mark.parametrize(
    ("manager", "system", "package", "word", "source"),
    [
        ("dpkg", BOOKWORM, Package("curl", "7.88.1-10", "amd64", "curl", "7.88.1-10"),
         "pkg:deb/debian/curl@7.88.1-10?arch=amd64&distro=debian-12",
         "pkg:deb/debian/curl@7.88.1-10?arch=source&distro=debian-12"),
        ("dpkg", BOOKWORM, Package("libstdc++6", "1:12~rc1+b2", "amd64", "gcc", "1:12~rc1"),
         "pkg:deb/debian/libstdc%2B%2B6@1:12~rc1%2Bb2?arch=amd64&distro=debian-12&upstream=gcc%401:12~rc1",
         "pkg:deb/debian/gcc@1:12~rc1?arch=source&distro=debian-12"),
        ("rpm", FEDORA, Package("Net-x", "3:1.2-4.fc43", "noarch", "net", "1.2-4.fc43"),
         "pkg:rpm/fedora/Net-x@1.2-4.fc43?arch=noarch&distro=fedora-43&epoch=3&upstream=net-1.2-4.fc43.src.rpm",
         "pkg:rpm/fedora/net@1.2-4.fc43?arch=src&distro=fedora-43"),
        ("rpm", {}, Package("x", "1-1", ""), "pkg:rpm/linux/x@1-1", ""),
        ("rpm", {"ID": "Acme"}, Package("X", "0:1-1", ""),
         "pkg:rpm/acme/X@1-1?distro=Acme&epoch=0", ""),
        ("dpkg", {"ID": "Acme"}, Package("X", "1", ""), "pkg:deb/acme/x@1?distro=Acme", ""),
    ],
)  # fmt: skip
def test_package_urls_are_what_their_specification_has(
    manager: str, system: dict[str, str], package: Package, word: str, source: str
) -> None:
    assert purl(package, manager, system) == word
    assert source_purl(package, manager, system) == source
    for text in filter(None, (word, source)):
        assert PackageURL.from_string(text).to_string() == text


def test_provenance_lists_what_went_in_and_who_built(tmp_path: Path) -> None:
    inputs = InputsRecord(
        parameters={"backend": "auto", "variables": ("hostname",)},
        materials=(Material(name="vmlinuz", sha256="cd" * 32, uri="https://e.org/vmlinuz"),),
        builder="https://example.org/builders/images",
        epoch="2026-01-02T03:04:05Z",
    )
    manifest = finished_build(tmp_path / "small", inputs=inputs)
    more = [Material(name="a_1_amd64.deb", sha256="ef" * 32, note="x")]
    texts = bill.documents(manifest, small_inventory(), materials=more)
    path = tmp_path / "provenance.json"
    path.write_text(texts["provenance"])
    predicate = documents.provenance(path)["predicate"]
    assert predicate["buildDefinition"]["externalParameters"] == {
        "recipe": "small", "backend": "auto", "variables": ["hostname"],
    }  # fmt: skip
    assert predicate["buildDefinition"]["resolvedDependencies"] == [
        {"name": "a_1_amd64.deb", "digest": {"sha256": "ef" * 32}, "annotations": {"note": "x"}},
        {"name": "vmlinuz", "digest": {"sha256": "cd" * 32}, "uri": "https://e.org/vmlinuz"},
    ]  # fmt: skip
    assert predicate["runDetails"]["builder"]["id"] == "https://example.org/builders/images"
    # The last step ends 282.5 seconds after the first one begins.
    metadata = predicate["runDetails"]["metadata"]
    assert metadata["startedOn"] == "2026-11-21T05:35:18Z"
    assert metadata["finishedOn"] == "2026-11-21T05:40:00Z"
    # Bills carry the date of what the build is made of, or the one asked for.
    assert json.loads(texts["cyclonedx"])["metadata"]["timestamp"] == "2026-01-02T03:04:05Z"
    asked = bill.documents(manifest, None, epoch="2020-01-01T00:00:00Z")
    assert json.loads(asked["spdx"])["creationInfo"]["created"] == "2020-01-01T00:00:00Z"


@pytest.mark.parametrize("place", ["manifests/version-1.json", "earlier_release/manifest.json"])
def test_builds_of_earlier_releases_get_theirs(tmp_path: Path, place: str) -> None:
    directory = tmp_path / "old"
    directory.mkdir()
    (directory / "manifest.json").write_bytes((PROJECT / "tests/fixtures" / place).read_bytes())
    # The inventory as the first schema had it.
    old = json.loads(gzip.decompress(inventory.dump(small_inventory())))
    del old["system"]
    old["schema"] = 1
    old["packages"] = [each[:3] for each in old["packages"]]
    (directory / inventory.FILE).write_bytes(gzip.compress(json.dumps(old).encode()))
    paths = bill.rewrite(directory)
    assert "bash" in {package.name for package in documents.spdx(paths["spdx"]).packages}
    documents.cyclonedx(paths["cyclonedx"])
    documents.provenance(paths["provenance"])


def test_documents_are_not_written_while_the_build_changes(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    finished_build(directory)
    with exclusive(directory / ".lock", "the build"), pytest.raises(BusyError):
        bill.rewrite(directory)
    assert not (directory / "provenance.json").exists()
    (directory / "manifest.json").unlink()
    with pytest.raises(InputError, match="never finished"):
        bill.rewrite(directory)


def test_a_build_that_was_replaced_keeps_what_its_documents_are_made_of(tmp_path: Path) -> None:
    directory = written(tmp_path / "small")
    before = bill.read_documents(directory)
    kept = history.keep(directory)
    assert kept is not None
    finished_build(directory, root=b"another" * 900)
    assert bill.read_documents(kept) == before
    assert bill.read_documents(directory) != before
