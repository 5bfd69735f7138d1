"""The socket of a data folder is reached however long the folder's path is, also where descriptors have no names."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from matyan.folder.wire import SOCKET_NAME, socket_address


@pytest.mark.parametrize("descriptors", ["/proc/self/fd", "/nowhere"])
@pytest.mark.parametrize("length", [20, 200])
def test_a_socket_is_reached_by_a_short_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descriptors: str, length: int
) -> None:
    """103 bytes are what a Mac takes; a relative folder is one, too."""
    (tmp_path / ("x" * length)).mkdir()
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / ("x" * length), Path("x" * length)):
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            with socket_address(folder, Path(descriptors)) as address:
                assert len(os.fsencode(address)) <= 103
                server.bind(address)
            server.listen()
            with socket_address(folder, Path(descriptors)) as address:
                client.connect(address)
            assert (folder / SOCKET_NAME).is_socket()
            (folder / SOCKET_NAME).unlink()
