"""Uploads by the command line, into a local catalogue: options, records, one JSON document."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.builds.manifest import write_manifest
from tests.fixtures.finished import finished_manifest, with_disk
from tests.unit.cli.test_tasks import invoke


class Place:
    """A finished build called demo, and a catalogue."""

    def __init__(self, directory: Path) -> None:
        self.builds, self.catalogue = directory / "b", directory / "c"
        self.build = self.builds / "demo"
        self.build.mkdir(parents=True)
        write_manifest(finished_manifest(self.build, b"root" * 5000), self.build)

    def invoke(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = invoke(*words, IMAGE_PIPELINE_BUILD=str(self.builds))
        assert "Traceback" not in done.stderr
        return done

    def upload(self, *words: str) -> subprocess.CompletedProcess[str]:
        cloud = f"local:{self.catalogue}"
        return self.invoke("upload", "--recipe", "demo", "--cloud", cloud, *words)

    def version(self) -> dict[str, Any]:
        text = (self.catalogue / "streams/v1/image-pipeline.json").read_text()
        (product,) = json.loads(text)["products"].values()
        (version,) = product["versions"].values()
        return dict(version)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--property", "owner=5"], "image property owner"),
        (["--property", "min_disk=5"], "Use --min-disk"),
        (["--property", "image_pipeline_key=zzz"], "image property image_pipeline_key"),
        (["--tag", "image_pipeline_key=zzz"], "set the tag"),
        (["--tag", ""], "its word is empty"),
        (["--member", " "], "its word is empty"),
        (["--keep", "x"], "--keep x"),
        (["--keep=-1"], "--keep -1"),
        (["--keep", "0"], "--keep 0"),
        (["--min-disk", "1G"], "a whole number of GiB"),
        (["--min-ram", "1.5"], "a whole number of MiB"),
        (["--min-ram", "9" * 5000], "a whole number of MiB"),
        (["--protected", "--unprotected"], "contradict"),
        (["--hidden", "--shown"], "contradict"),
        (["--whole-disk"], "--disk-image"),
        (["--whole-disk", "--unverified"], "--disk-image"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_wrong_words_end_with_2_before_anything_is_written(
    place: Place, words: list[str], complaint: str, dry: list[str]
) -> None:
    done = place.upload(*words, *dry, "--json")
    assert done.returncode == 2, done.stderr
    assert complaint in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 2
    assert not place.catalogue.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("prune", "--keep", "two"),
        ("prune", "--keep=-1"),
        ("benchmark", "--rounds", "x"),
        ("benchmark", "--rounds", "0"),
        ("faults", "--points", "x"),
        ("faults", "--seed", "-"),
    ],
)
def test_no_number_ends_in_a_traceback(place: Place, words: tuple[str, ...]) -> None:
    done = place.invoke(*words)
    assert done.returncode == 2, done.stderr
    assert "a whole number" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("benchmark", "--directory", "missing"),
        ("benchmark", "--directory", "file"),
        ("compatibility", "--directory", "missing"),
        ("faults", "--disk", "missing"),
        ("faults", "--disk", "b"),
        ("benchmark", "--sizes", "x"),
        ("benchmark", "--sizes", "1,,4"),
        ("benchmark", "--sizes", "0"),
        ("benchmark", "--sizes", "nan"),
    ],
)
def test_developers_words_that_are_wrong_start_nothing(
    tmp_path: Path, words: tuple[str, str, str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "b").mkdir()
    done = invoke(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"Cannot use the option {words[1]} {words[2]}: " in done.stderr
    assert "python" not in done.stdout + done.stderr  # what is started is echoed


def test_a_folder_is_the_one_beside_the_user(tmp_path: Path) -> None:
    """The benchmarks run in the product's own directory, and end with a code of their own."""
    (tmp_path / "here").mkdir()
    done = invoke("benchmark", "--only", "no-such", "--directory", "here", cwd=tmp_path)
    assert done.returncode == 2
    assert f"--directory {tmp_path}/here" in done.stdout


def test_a_property_of_the_manifest_is_looked_at_too(place: Place) -> None:
    """A build may be older than the rule."""
    manifest = finished_manifest(place.build, b"root", properties={"owner": "5"})
    write_manifest(manifest, place.build)
    done = place.upload()
    assert done.returncode == 2
    assert "image property owner" in done.stderr
    assert not place.catalogue.exists()


def test_all_builds_are_looked_at_before_the_first_is_sent(place: Place) -> None:
    other = place.builds / "other"
    other.mkdir()
    write_manifest(finished_manifest(other, b"x", checks=()), other)
    done = place.upload("--recipe", "other")
    assert done.returncode == 2
    assert "other" in done.stderr
    assert not place.catalogue.exists()


@pytest.mark.parametrize("stands", [".registrations.json.lock", "registrations.json"])
def test_a_record_that_cannot_be_written_hides_no_id(place: Place, stands: str) -> None:
    (place.build / stands).mkdir()
    done = place.upload("--json")
    assert done.returncode == 0, done.stderr
    assert "registered, but not recorded" in done.stderr
    ((known,),) = (answer["clouds"] for answer in json.loads(done.stdout))
    assert known["machine_id"].startswith("ami-")
    assert stands in known["unrecorded"]
    assert known["machine_id"] in place.upload().stdout
    (place.build / stands).rmdir()
    again = place.upload("--json")
    ((healed,),) = (answer["clouds"] for answer in json.loads(again.stdout))
    assert (healed["machine_id"], healed["unrecorded"]) == (known["machine_id"], "")
    record = json.loads((place.build / "registrations.json").read_text())
    assert [entry["machine_id"] for entry in record["registrations"]] == [known["machine_id"]]


def test_a_clouds_failure_has_all_its_parts(place: Place) -> None:
    done = place.upload("--json", "--region", "eu")
    assert done.returncode == 2
    ((told,),) = (answer["clouds"] for answer in json.loads(done.stdout))
    assert told["cloud"] == f"local:{place.catalogue}"
    assert (told["kind"], told["exit_code"]) == ("input", 2)
    assert not (place.build / "report.html").exists(), "there are no new ids to tell of"
    assert told["error"] == f"Cannot {told['attempted']} {told['subject']}: {told['why']}." + (
        f" {told['next_step']}."
    )


@pytest.mark.parametrize("name", ["", ".", "../b/demo"])
@pytest.mark.parametrize("words", [("show",), ("verify",), ("report",), ("upload", "--recipe")])
def test_what_is_no_builds_name(place: Place, words: tuple[str, ...], name: str) -> None:
    done = place.invoke(*words, name)
    assert done.returncode == 2
    assert f"{name!r} is no build's name" in done.stderr


@pytest.mark.parametrize(
    ("manifest", "code", "said"),
    [
        ("nowhere.xml", 2, "Name the bundle's manifest"),
        ("s3://bucket", 2, "Write s3://BUCKET/KEY"),
        ("s3://", 2, "Write s3://BUCKET/KEY"),
        (__file__, 7, "it is not signed. Name the .manifest.xml"),
    ],
)
def test_what_is_no_bundle(place: Place, manifest: str, code: int, said: str) -> None:
    done = place.invoke("unbundle", manifest, "--out", str(place.builds / "image"))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert not (place.builds / "image").exists()


def test_a_report_that_cannot_be_written_is_a_warning(place: Place) -> None:
    (place.build / "report.html").mkdir()
    done = place.upload("--json")
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stderr
    assert json.loads(done.stdout)[0]["clouds"][0]["machine_id"]


def test_what_was_not_asked_for_stays_and_changes_are_told(place: Place) -> None:
    options = ("--protected", "--visibility", "public", "--min-ram", "512", "--tag", "a")
    assert place.upload(*options, "--property", "note=x").returncode == 0
    before = place.version()
    again = place.upload()
    assert "already there" in again.stdout
    assert "->" not in again.stderr
    assert place.version() == before
    planned = place.upload("--unprotected", "--tag", "b", "--visibility", "private", "--dry-run")
    for words in ("protected: true -> false", "visibility: public -> private", "tags: a -> a,b"):
        assert words in planned.stdout
    assert place.version() == before
    done = place.upload("--unprotected", "--min-ram", "0", "--property", "note=y")
    for words in ("protected: true -> false", "min_ram_mib: 512 -> 0", "note: x -> y"):
        assert words in done.stderr
    changed = {"protected": "false", "min_ram_mib": "0"}
    properties = {**before["properties"], "note": "y"}
    assert place.version() == {**before, **changed, "properties": properties}


def test_prune_of_a_protected_generation_ends_with_7(place: Place) -> None:
    assert place.upload("--protected").returncode == 0
    write_manifest(finished_manifest(place.build, b"root2" * 5000), place.build)
    assert place.upload().returncode == 0
    done = place.invoke("prune", "--keep", "1", "--yes", "--json")
    assert done.returncode == 7, done.stderr
    assert "--unprotected" in done.stderr
    assert "pipeline's own" not in done.stderr
    (failure,) = json.loads(done.stdout)["failures"]
    assert (failure["kind"], failure["exit_code"]) == ("cloud", 7)
    assert failure["next_step"] in failure["error"]
    said = place.invoke("prune", "--keep", "1", "--yes")
    assert "what is unfinished" not in said.stdout


def test_a_cloud_of_the_record_that_is_no_more_stops_no_other(place: Place) -> None:
    """Its profile or entry in clouds.yaml is gone; the record still names it."""
    assert place.upload().returncode == 0
    path = place.build / "registrations.json"
    record = json.loads(path.read_text())
    record["registrations"].insert(0, {**record["registrations"][0], "cloud": "ec2:gone"})
    path.write_text(json.dumps(record))
    write_manifest(finished_manifest(place.build, b"root2" * 5000), place.build)
    assert place.upload().returncode == 0
    done = place.invoke("prune", "--keep", "1", "--yes")
    assert done.returncode == 7, done.stderr
    assert "ec2:gone" in done.stderr
    assert "deleted" in done.stderr


def test_whole_disks_are_uploaded_where_there_is_one(place: Place) -> None:
    with_disk(finished_manifest(place.build, b"root" * 5000), place.build, None)
    done = place.upload("--whole-disk")
    assert done.returncode == 2
    assert "boot check failed or was skipped" in done.stderr
    assert place.upload("--whole-disk", "--unverified").returncode == 0
