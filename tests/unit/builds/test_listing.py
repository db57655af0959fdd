"""Listing, comparing and pruning builds; clouds are the local catalogue or none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks
from pipeline.builds import history, registrations
from pipeline.builds.compare import compare, read_build
from pipeline.builds.listing import summaries, summary_lines
from pipeline.builds.manifest import RecipeRecord, read_manifest, write_manifest
from pipeline.builds.workspace import LOCK, Workspace
from pipeline.cli.reference import arguments
from pipeline.clouds.protocol import Cloud, PublishOptions
from pipeline.clouds.registry import open_clouds
from pipeline.core.checks import Assertion, VerifyReport
from pipeline.core.errors import BusyError, CloudError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.identity import content_key
from pipeline.core.image import Registration
from pipeline.guest.inventory import Inventory, Package
from pipeline.host.locks import exclusive
from pipeline.workflows import prune, verify
from tests.fixtures.finished import entry, finished_build, small_inventory
from tests.unit.cli.test_tasks import invoke


def recipe(digest: str) -> RecipeRecord:
    return RecipeRecord(name="small", description="A small system", digest=digest * 32)


def rebuild(
    directory: Path, number: int, *, listing: Inventory | None = None, **changes: object
) -> None:
    """Replace the build by one with another root, as build.py does."""
    history.keep(directory)
    finished_build(
        directory,
        listing=listing,
        evidence={},
        root=b"root%d" % number,
        created=f"2026-12-{number:02}T05:40:00Z",
        recipe=recipe(f"{number:02}"),
        **changes,
    )


def registered(key: str, stamp: str, *, whole_disk: bool = False) -> Registration:
    kernel = "" if whole_disk else f"aki-{stamp}"
    return Registration("c", "small", kernel, "", f"ami-{stamp}", False, stamp, key)


def open_one(word: str) -> Cloud:
    return open_clouds([word])[0]


def test_a_build_is_booted_again_for_its_own_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_PIPELINE_BUILD", str(tmp_path))
    manifest = finished_build(tmp_path / "small", recipe=recipe("01"))
    changed = manifest.customization.model_copy(update={"user": "fedora"})
    write_manifest(manifest.model_copy(update={"customization": changed}), tmp_path / "small")
    assert verify.find_target("small", whole_disk=False, user="").boots.user == "fedora"
    assert verify.find_target("small", whole_disk=False, user="me").boots.user == "me"


def test_a_failure_seen_by_verify_is_not_outlived_by_an_earlier_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_PIPELINE_BUILD", str(tmp_path))
    directory = tmp_path / "small"
    finished_build(directory, recipe=recipe("01"))
    passed = VerifyReport(True, (Assertion("root by label", True, ""),), 9.0, ())
    workspace = Workspace(directory)
    with workspace.open():
        workspace.remember("verify", "key", [], {"passed": True})
    target = verify.find_target("small", whole_disk=False, user="")
    verify.record(target, passed)
    assert workspace.lookup("verify", "key", dict)
    verify.record(target, replace(passed, passed=False))
    assert workspace.lookup("verify", "key", dict) is None
    assert not read_manifest(directory).image(directory).verified()


def test_a_verdict_is_not_written_to_a_build_that_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_PIPELINE_BUILD", str(tmp_path))
    finished_build(tmp_path / "small", recipe=recipe("01"))
    passed = VerifyReport(True, (), 9.0, ())
    target = verify.find_target("small", whole_disk=False, user="")
    rebuild(tmp_path / "small", 2, checks=())
    with pytest.raises(BusyError):
        verify.record(target, passed)
    assert read_manifest(tmp_path / "small").checks == ()


def test_history_keeps_records_and_finds_them_by_word(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    finished_build(directory, recipe=recipe("01"))
    rebuild(directory, 2)
    rebuild(directory, 3)
    newest, oldest = history.entries(directory)
    assert read_manifest(newest).recipe.digest == "02" * 32
    assert {path.name for path in newest.iterdir()} == {"manifest.json", "inventory.json.gz"}
    assert history.locate(tmp_path, "small") == directory
    assert history.locate(tmp_path, "small@previous") == newest
    assert history.locate(tmp_path, "small@0101") == oldest
    for word in ("none", "small@zz", "small@0", "", "../x", "small@"):
        with pytest.raises(InputError):
            history.locate(tmp_path, word)


def test_history_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 2)
    directory = tmp_path / "small"
    finished_build(directory, recipe=recipe("01"))
    for number in (2, 3, 4, 5):
        rebuild(directory, number)
    assert [read_manifest(p).recipe.digest[:2] for p in history.entries(directory)] == ["04", "03"]


def test_an_unreadable_build_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    assert history.keep(tmp_path) is None
    assert history.entries(tmp_path) == []


def test_comparison_names_packages_files_and_fields(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    listing = small_inventory()
    finished_build(directory, recipe=recipe("01"), listing=listing)
    fstab, usr, bash, *rest = listing.entries
    changed = replace(
        listing,
        entries=(
            fstab._replace(check=9),
            usr._replace(mode=0o700, uid=5),
            bash._replace(size=1_300_000, allocated=bash.allocated + 8192),
            *rest[:1],
            entry("/new", 5000, owner=2),
        ),
        packages=(
            Package("bash", "5.3-1", "amd64"),
            *listing.packages[1:],
            Package("new", "1", ""),
        ),
    )
    rebuild(directory, 2, listing=changed)
    old, new = (read_build(history.locate(tmp_path, w)) for w in ("small@previous", "small"))
    found = compare(old, new)
    assert found.packages is not None
    assert found.files is not None
    assert {(c.name, c.old, c.new, c.bytes) for c in found.packages} == {
        ("bash", "5.2-1", "5.3-1", 8192 - 12288),
        ("new", None, "1", 8192),
    }
    assert {(c.name, c.what, c.bytes) for c in found.files} == {
        ("/usr/share/doc/bash/README", "", -12288),
        ("/new", "", 8192),
        ("/usr/bin/bash", "content", 8192),
        ("/etc/fstab", "content", 0),
        ("/usr", "mode, owner", 0),
    }
    assert found.files[0].name == "/usr/share/doc/bash/README"
    assert {c.name for c in found.fields} == {
        "recipe.digest", "artifacts[machine].sha256", "artifacts[machine].size",
        "artifacts[machine].allocated",
    }  # fmt: skip
    assert not found.same
    assert compare(new, new).same


def test_without_an_inventory_only_fields_are_compared(tmp_path: Path) -> None:
    finished_build(tmp_path / "small")
    (tmp_path / "small" / "inventory.json.gz").unlink()
    found = compare(*(read_build(tmp_path / "small"),) * 2)
    assert (found.packages, found.files) == (None, None)


def test_the_list_shows_states_and_registrations(tmp_path: Path) -> None:
    finished_build(tmp_path / "good")
    finished_build(tmp_path / "skipped", checks=())
    (tmp_path / "half" / ".work").mkdir(parents=True)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "manifest.json").write_text("{}")
    (tmp_path / "shut" / "manifest.json").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    registrations.add_to_record(
        tmp_path / "good" / registrations.FILE, registered("k", "20261121T054000Z")
    )
    with exclusive(tmp_path / "half" / LOCK, "half"):
        known = {one.name: one for one in summaries(tmp_path)}
    assert {name: one.state for name, one in known.items()} == {
        "good": "finished", "half": "unfinished", "odd": "unreadable", "shut": "unreadable",
        "skipped": "finished",
    }  # fmt: skip
    assert [one.busy for one in known.values()] == [False, True, False, False, False]
    assert [known[n].boot_check for n in ("good", "skipped")] == ["passed", "skipped"]
    assert known["good"].bytes > 3 * 4096
    lines = summary_lines(list(known.values()))
    assert any("ami-20261121T054000Z" in line for line in lines)
    assert summary_lines([]) == ["nothing was built here yet"]


def test_leftovers_of_a_killed_run_go_at_once_and_the_build_stays(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    finished_build(directory)
    (directory / ".work").mkdir()
    (directory / ".work" / "root.img").write_bytes(b"x" * 9000)
    (directory / "disk.img.partial").write_bytes(b"x")
    (directory / "disk.img").write_bytes(b"disk")
    before = read_manifest(directory)
    answer = prune.prune(tmp_path, prune.Wish(), open_one, QuietProgress(), yes=False)
    assert [one.kind for one in answer.deleted] == ["scratch", "scratch"]
    assert not (directory / ".work").exists()
    assert (directory / "disk.img").exists()
    assert before.image(directory).verified()


def test_disks_and_unfinished_stages_need_a_yes(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    (directory / ".stages" / "image").mkdir(parents=True)
    (directory / ".stages" / "image" / "machine").write_bytes(b"x")
    (directory / "disk.img").write_bytes(b"disk")
    wish = prune.Wish(names=("small",), disks=True)
    dry = prune.prune(tmp_path, wish, open_one, QuietProgress(), yes=False)
    assert dry.dry_run
    assert [one.kind for one in dry.found] == ["unfinished", "disk"]
    assert (directory / "disk.img").exists()
    assert any("--yes" in line for line in prune.lines(dry))
    done = prune.prune(tmp_path, wish, open_one, QuietProgress(), yes=True)
    assert len(done.deleted) == 2
    assert not (directory / "disk.img").exists()
    assert not (directory / ".stages" / "image").exists()
    again = prune.prune(tmp_path, wish, open_one, QuietProgress(), yes=True)
    assert prune.lines(again) == ["there is nothing to prune"]


def test_unfinished_stages_do_not_keep_scratch(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    (directory / ".work").mkdir(parents=True)
    (directory / ".stages" / "image").mkdir(parents=True)
    (directory / ".stages" / "image" / "machine").write_bytes(b"x")
    answer = prune.prune(tmp_path, prune.Wish(), open_one, QuietProgress(), yes=False)
    assert not answer.dry_run
    assert [one.kind for one in answer.deleted] == ["scratch"]
    assert (directory / ".stages" / "image" / "machine").exists()
    assert "--yes" in prune.lines(answer)[-1]


def test_a_running_build_is_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    (directory / ".work").mkdir(parents=True)
    with exclusive(directory / LOCK, "small"):
        assert not prune.prune(tmp_path, prune.Wish(), open_one, QuietProgress(), yes=True).found
    # One that began after the look around is not touched either.
    found, _ = prune.find(tmp_path, prune.Wish(), open_one)
    with exclusive(directory / LOCK, "small"):
        deleted, failures = prune.delete(found, tmp_path, open_one, QuietProgress())
    assert deleted == []
    assert len(failures) == 1
    assert (directory / ".work").exists()


def test_a_link_in_the_build_directory_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    directory = tmp_path / "builds" / "small"
    directory.mkdir(parents=True)
    (directory / ".work").symlink_to(outside)
    prune.prune(tmp_path / "builds", prune.Wish(), open_one, QuietProgress(), yes=True)
    assert not (directory / ".work").is_symlink()
    assert (outside / "precious").exists()


def test_nothing_outside_the_build_directory_is_touched(tmp_path: Path) -> None:
    (tmp_path / "builds").mkdir()
    (tmp_path / "other" / ".work").mkdir(parents=True)
    wish = prune.Wish(names=("../other",), clouds=(f"local:{tmp_path}/catalogue",), keep=1)
    answer = prune.prune(tmp_path / "builds", wish, open_one, QuietProgress(), yes=True)
    assert answer.found == ()
    assert (tmp_path / "other" / ".work").is_dir()


def test_unknown_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such build"):
        prune.find(tmp_path, prune.Wish(names=("x",)), open_one)


def test_old_generations_go_and_the_record_with_them(tmp_path: Path) -> None:
    builds, word = tmp_path / "builds", f"local:{tmp_path / 'catalogue'}"
    directory = builds / "small"
    finished_build(directory, recipe=recipe("01"))
    cloud = open_one(word)
    for number in (1, 2, 3):
        if number > 1:
            rebuild(directory, number)
        images = read_manifest(directory).image(directory)
        made = cloud.publish(images, PublishOptions(), QuietProgress())
        registrations.add_to_record(directory / registrations.FILE, made)
    wish = prune.Wish(keep=2)
    dry = prune.prune(builds, wish, open_one, QuietProgress(), yes=False)
    assert dry.dry_run
    assert len(cloud.generations("small")) == 3
    (oldest,) = dry.found
    done = prune.prune(builds, wish, open_one, QuietProgress(), yes=True)
    assert done.deleted == (oldest,)
    left = [g.machine_id for g in cloud.generations("small")]
    assert len(left) == 2
    recorded = registrations.registrations(directory / registrations.FILE)
    assert {r.machine_id for r in recorded} == set(left)


def test_a_cloud_that_fails_stops_no_other(tmp_path: Path) -> None:
    finished_build(tmp_path / "small")
    (tmp_path / "small" / ".work").mkdir()

    def refuse(word: str) -> Cloud:
        raise CloudError("log in to", word, why="401")

    wish = prune.Wish(clouds=("glance:x",), keep=1)
    answer = prune.prune(tmp_path, wish, refuse, QuietProgress(), yes=True)
    assert len(answer.deleted) == 1
    assert "glance:x" in str(answer.failures[0])


def test_the_only_build_that_boots_is_never_withdrawn() -> None:
    old = [registered(f"key{n}", f"2026112{n}T000000Z") for n in (4, 3, 2, 1)]
    verdicts = {"key4": False, "key3": False, "key2": True, "key1": True}
    assert [g.key for g in prune.to_withdraw(old, 1, verdicts)] == ["key3", "key1"]
    assert [g.key for g in prune.to_withdraw(old, 3, verdicts)] == ["key1"]
    assert [g.key for g in prune.to_withdraw(old, 1, {})] == ["key3", "key2", "key1"]
    refused = dict.fromkeys(("key1", "key2", "key3", "key4"), False)
    assert [g.key for g in prune.to_withdraw(old, 1, refused)] == ["key3", "key2", "key1"]


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([True, False, None])), max_size=8),
    st.integers(1, 4),
)
def test_pruning_keeps_n_of_each_kind_and_one_that_may_boot(
    facts: Sequence[tuple[bool, bool | None]], keep: int
) -> None:
    known = [
        registered(f"k{n}", f"{20261130 - n}T000000Z", whole_disk=disk)
        for n, (disk, _) in enumerate(facts)
    ]
    verdicts = {f"k{n}": v for n, (_, v) in enumerate(facts) if v is not None}
    going = prune.to_withdraw(known, keep, verdicts)
    for kind in (True, False):
        alike = [g for g in known if bool(g.kernel_id) is kind]
        staying = [g for g in alike if g not in going]
        assert staying[:keep] == alike[:keep]
        assert len(staying) <= max(keep, 0) + 1
        usable = [g for g in alike if verdicts.get(g.key, True)]
        assert bool(usable) == any(g in staying for g in usable)


def test_verdicts_come_from_the_build_and_its_history(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    finished_build(directory, recipe=recipe("01"))
    first = content_key(read_manifest(directory).image(directory))
    rebuild(directory, 2, checks=())
    second = read_manifest(directory).image(directory)
    verdicts = prune.known_verdicts(directory)
    assert verdicts[first] is True
    assert verdicts[content_key(second)] is False
    assert verdicts[content_key(second, whole_disk=True)] is False


def test_the_tasks_speak_to_people_and_to_programs(tmp_path: Path) -> None:
    finished_build(tmp_path / "small", recipe=recipe("01"))
    rebuild(tmp_path / "small", 2)
    for words in (
        ("list",),
        ("show", "small"),
        ("diff", "small@previous", "small"),
        ("prune",),
        ("report", "small"),
    ):
        people = invoke(*words, IMAGE_PIPELINE_BUILD=str(tmp_path))
        assert people.returncode == 0, people.stderr
        assert people.stdout.strip()
        programs = invoke(*words, "--json", IMAGE_PIPELINE_BUILD=str(tmp_path))
        assert programs.returncode == 0, programs.stderr
        assert json.loads(programs.stdout)
    assert (tmp_path / "small" / "report.html").exists()
    lost = invoke("show", "smal", IMAGE_PIPELINE_BUILD=str(tmp_path))
    assert lost.returncode == 2
    assert "invoke list" in lost.stderr


def test_options_that_may_be_repeated_take_whole_words(tmp_path: Path) -> None:
    for name in tasks.namespace.task_names:
        task = tasks.namespace[name]
        kinds = {a.name: a.kind for a in arguments(task) if a.name in task.iterable}
        assert set(kinds) == set(task.iterable), name
        assert set(kinds.values()) <= {list}, name
    done = invoke("prune", "--name", "small", "--name", "other", IMAGE_PIPELINE_BUILD=str(tmp_path))
    assert "Cannot prune other, small: " in done.stderr
