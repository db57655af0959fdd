"""Places and limits that the environment may set."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core import settings
from pipeline.core.errors import InputError


def test_layers_lie_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("IMAGE_PIPELINE_LAYERS", raising=False)
    monkeypatch.delenv("IMAGE_PIPELINE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert settings.layers_dir() == tmp_path / "image-pipeline/layers"
    monkeypatch.setenv("IMAGE_PIPELINE_LAYERS", str(tmp_path / "l"))
    assert settings.layers_dir() == tmp_path / "l"


def test_limits_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIB", "DAYS"):
        monkeypatch.delenv(f"IMAGE_PIPELINE_LAYERS_{name}", raising=False)
    assert (settings.layers_bytes(), settings.layers_days()) == (20 << 30, 60)
    monkeypatch.setenv("IMAGE_PIPELINE_LAYERS_GIB", "0")
    assert settings.layers_bytes() == 0


@pytest.mark.parametrize("value", ["-1", "1.5", "ten", "\u0663", "9999999"])
def test_a_limit_that_is_no_number(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("IMAGE_PIPELINE_LAYERS_DAYS", value)
    with pytest.raises(InputError, match="IMAGE_PIPELINE_LAYERS_DAYS"):
        settings.layers_days()
