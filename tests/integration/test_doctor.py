"""The doctor's real probes: libvirt opened, the appliance launched, clouds asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.workflows import doctor

pytestmark = pytest.mark.integration


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), tmp_path)


def test_libvirt_is_opened_as_an_install_would(tools: Tools) -> None:
    assert doctor._libvirt(tools).startswith("QEMU, libvirt ")


def test_the_bindings_load_in_a_process_of_their_own(tools: Tools) -> None:
    assert doctor._bindings(tools).startswith("libguestfs 1.")


def test_the_appliance_comes_up(tools: Tools) -> None:
    assert doctor._launch(tools).startswith("launched with ")
