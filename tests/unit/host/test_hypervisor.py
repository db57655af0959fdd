import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.architecture import Architecture
from pipeline.core.errors import InputError
from pipeline.core.events import QuietProgress
from pipeline.host import hypervisor
from pipeline.host.context import Tools
from pipeline.host.programs import Runner


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tools]:
    monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(hypervisor.VARIABLE, raising=False)
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), tmp_path)


def test_the_probe_is_a_boot_sector() -> None:
    sector = hypervisor.boot_sector()
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"


@pytest.mark.parametrize(
    ("kvm", "tcg", "chosen"),
    [
        (0.2, 0.9, "kvm"),
        (1.0, 0.9, "kvm"),  # within the jitter of a busy host
        (4.9, 0.9, "tcg"),
        (None, 0.9, "tcg"),
        (8.0, 30.0, "kvm"),  # a very busy host: still the faster one
    ],
)
def test_the_faster_one_is_chosen(kvm: float | None, tcg: float, chosen: str) -> None:
    assert hypervisor.decide(kvm, tcg).accelerator == chosen


def test_the_reason_names_both_figures() -> None:
    assert "4.9 s" in hypervisor.decide(4.9, 0.9).reason
    assert "0.9 s" in hypervisor.decide(4.9, 0.9).reason


@pytest.mark.parametrize("word", ["kvm", "tcg"])
def test_it_can_be_forced(word: str, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hypervisor.acceleration(tools, force=word).accelerator == word
    monkeypatch.setenv(hypervisor.VARIABLE, word)
    assert hypervisor.acceleration(tools).accelerator == word


def test_guests_of_another_architecture_are_translated_and_nothing_is_measured(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign: Architecture = "x86_64" if hypervisor.native() == "aarch64" else "aarch64"
    monkeypatch.setattr(hypervisor, "probe", None)  # a call would fail
    found = hypervisor.acceleration(tools, architecture=foreign)
    assert found.accelerator == "tcg"
    assert foreign in found.reason
    assert hypervisor.native() in found.reason
    assert hypervisor.acceleration(tools, force="tcg", architecture=foreign).reason == "forced"
    # The variable speaks of this host's own guests; the option of this very build.
    monkeypatch.setenv(hypervisor.VARIABLE, "kvm")
    assert hypervisor.acceleration(tools, architecture=foreign).accelerator == "tcg"
    with pytest.raises(InputError, match="only guests of its own architecture"):
        hypervisor.acceleration(tools, force="kvm", architecture=foreign)


def test_the_probe_of_aarch64_counts_and_asks_for_the_end() -> None:
    words = struct.unpack("<8I", hypervisor.bare_program())
    high, low = ((word >> 5) & 0xFFFF for word in words[:2])
    assert (high << 16) + low == 100_000_000
    assert words[6] == 0xD4000002, "hvc #0"


def test_another_word_is_refused(tools: Tools) -> None:
    with pytest.raises(InputError, match="neither kvm nor tcg"):
        hypervisor.acceleration(tools, force="hvf")


@pytest.mark.parametrize("record", ["", "[]", "{", '{"key": 1}', '{"accelerator": "xen"}'])
def test_a_damaged_cache_is_measured_anew(
    record: str, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervisor, "_KVM", tmp_path / "no-such-device")
    store = tmp_path / "cache" / "acceleration.json"
    store.parent.mkdir()
    store.write_text(record)
    answer = hypervisor.acceleration(tools)
    assert (answer.accelerator, "there is no" in answer.reason) == ("tcg", True)
    assert json.loads(store.read_text())["accelerator"] == "tcg"


def test_a_measurement_is_remembered_until_the_next_boot(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervisor, "_KVM", tmp_path / "no-such-device")
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    monkeypatch.setattr(hypervisor, "_BOOT_ID", boot)
    assert "measured earlier" not in hypervisor.acceleration(tools).reason
    assert "measured earlier" in hypervisor.acceleration(tools).reason
    boot.write_text("two\n")
    assert "measured earlier" not in hypervisor.acceleration(tools).reason
