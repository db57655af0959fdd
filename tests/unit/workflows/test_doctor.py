"""The doctor's judgement, on this host and on hosts that lack something."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.clouds import credentials
from pipeline.core.errors import CloudError, InputError, PipelineError
from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.workflows import doctor
from pipeline.workflows.doctor import Check
from pipeline.workflows.requirements import requirements
from tests.unit.cli.test_tasks import invoke


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), tmp_path)


@pytest.fixture
def no_clouds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OS_CLOUD", "OS_AUTH_URL", "AWS_ACCESS_KEY_ID", "EC2_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "OS_CLIENT_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("IMAGE_PIPELINE_CATALOGUE", str(tmp_path / "catalogue"))


def examined(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Check]:
    # The guest probe and libvirt's start are the integration tests' matter.
    monkeypatch.setenv("IMAGE_PIPELINE_ACCEL", "tcg")
    monkeypatch.setattr(doctor, "_libvirt", lambda tools: "not tried")
    return {(check.area, check.name): check for check in doctor.examine(tools)}


def test_every_lack_names_what_mends_it(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, no_clouds: None
) -> None:
    # A host on which nothing is installed: only the program that starts programs is left.
    (tools.scratch / "bin").mkdir()
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    (tools.scratch / "bin" / "setpriv").symlink_to(setpriv)
    monkeypatch.setenv("PATH", str(tools.scratch / "bin"))
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    checks = examined(tools, monkeypatch)
    lacks = [check for check in checks.values() if check.state == "lack"]
    wanted = {name for each in requirements() if each.needed for name in each.programs}
    wanted.discard("setpriv")
    assert wanted <= {check.name for check in lacks}
    for check in lacks:
        if check.name in wanted:
            assert check.mend.startswith("Install it: apt-get install "), check
            assert check.needed
    assert doctor.failed(list(checks.values()))


def test_the_default_cloud_is_needed_and_the_others_are_not(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, no_clouds: None
) -> None:
    monkeypatch.setenv("EC2_ACCESS_KEY", "AKIDEXAMPLE1234")
    monkeypatch.setenv("EC2_SECRET_KEY", "never-to-be-shown")
    monkeypatch.setenv("EC2_URL", "http://127.0.0.1:9")
    checks = examined(tools, monkeypatch)
    assert checks["upload", "local"].state == "ok"
    assert checks["upload", "local"].needed
    broken = checks["upload", "ec2"]
    assert (broken.state, broken.needed) == ("lack", False)
    assert "127.0.0.1:9" in broken.detail
    text = "\n".join(doctor.lines(list(checks.values())))
    assert "never-to-be-shown" not in text
    assert "AKIDEXAMPLE1234" not in text


def test_advice_does_not_fail_and_optional_lacks_do_not_either() -> None:
    checks = [
        Check("install", "acceleration", "advice", "tcg", "another host"),
        Check("xfs", "xfs_admin", "lack", "it is not installed", "apt-get install x", needed=False),
    ]
    assert not doctor.failed(checks)
    lines = doctor.lines(checks)
    assert lines[0] == "install"
    assert "advice" in lines[1]
    assert lines[2].endswith("→ another host")
    assert "(lack)" in lines[4]
    assert lines[-1] == "0 needed and 1 optional things are lacking"
    assert doctor.failed([*checks, Check("x", "y", "lack", "z")])


def test_small_and_closed_directories_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "not" / "yet"
    assert "free at" in _outcome(below)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 30))
    assert "prune" in _outcome(below)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 << 30))
    assert "at worst" in _outcome(below)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "closed to this user" in _outcome(below)
    assert not below.exists()


def _outcome(directory: Path) -> str:
    try:
        return doctor._space(directory)
    except doctor.Advice as advice:
        return " ".join(advice.args)
    except PipelineError as error:
        return str(error)


@pytest.mark.parametrize(
    ("names", "readable", "words"),
    [
        ((), True, "apt-get install linux-image-cloud-amd64"),
        (("vmlinuz-6.1",), False, "dpkg-statoverride"),
        (("vmlinuz-6.1",), True, "vmlinuz-6.1"),
    ],
)
def test_the_appliance_needs_a_kernel_it_can_read(
    names: tuple[str, ...], readable: bool, words: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(doctor, "_BOOT", tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: readable)
    try:
        said = doctor._readable_kernel()
    except PipelineError as error:
        said = str(error)
    assert words in said


def test_configured_clouds_are_named_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_clouds: None
) -> None:
    clouds = tmp_path / "clouds.yaml"
    clouds.write_text("clouds: {prod: {auth: {auth_url: 'http://127.0.0.1:9'}}}\n")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds))
    profiles = tmp_path / "config"
    profiles.write_text("[default]\nregion = x\n[profile euca]\nregion = y\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profiles))
    known = credentials.configured({"IMAGE_PIPELINE_CLOUDS": "glance:prod local"})
    assert known == ["glance:prod", "local", "ec2:default", "ec2:euca"]


def test_a_cloud_that_is_gone_is_an_error_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_clouds: None
) -> None:
    clouds = tmp_path / "clouds.yaml"
    clouds.write_text(
        "clouds: {prod: {auth: {auth_url: 'http://127.0.0.1:9', username: u,"
        " password: secret-word, project_name: p}}}\n"
    )
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds))
    with pytest.raises(CloudError, match="glance:prod") as failure:
        credentials.check("glance:prod")
    assert "secret-word" not in str(failure.value)
    with pytest.raises(CloudError, match=r"glance:none|none"):
        credentials.check("glance:none")
    with pytest.raises(InputError, match="no kind of cloud"):
        credentials.check("azure:x")


def test_the_catalogue_must_be_writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert credentials.check(f"local:{tmp_path}/deep/down") == f"{tmp_path}/deep/down"
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(CloudError, match="IMAGE_PIPELINE_CATALOGUE"):
        credentials.check(f"local:{tmp_path}")


def test_json_is_one_document_and_the_code_tells() -> None:
    done = invoke("doctor", "--json", IMAGE_PIPELINE_ACCEL="tcg")
    checks = json.loads(done.stdout)
    assert {"area", "name", "state", "detail", "mend", "needed"} == set(checks[0])
    lacking = any(check["state"] == "lack" and check["needed"] for check in checks)
    assert done.returncode == (3 if lacking else 0)
