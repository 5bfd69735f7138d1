"""Which layout a data folder has: its engine's default where nobody wants one, and ever after its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from matyan.errors import ConfigurationError
from matyan.folder.folder import open_folder
from matyan.rules.sequences import Layout
from matyan.store.rocks import RocksStore


@pytest.mark.parametrize("default", ["compatible", "packed"])
async def test_a_new_folder_has_its_engines_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: Layout
) -> None:
    """And keeps it when the engine's default is another."""
    other: Layout = "packed" if default == "compatible" else "compatible"
    monkeypatch.setattr(RocksStore, "default_layout", default)
    async with open_folder(tmp_path, None) as folder:
        assert folder.layout == default
    monkeypatch.setattr(RocksStore, "default_layout", other)
    async with open_folder(tmp_path, None) as folder:
        assert folder.layout == default
    with pytest.raises(ConfigurationError, match=f"MATYAN_SEQUENCE_LAYOUT={default}"):
        async with open_folder(tmp_path, None, strict=True):
            raise AssertionError
    async with open_folder(tmp_path, default, strict=True) as folder:
        assert folder.layout == default
