"""A data folder copied while it is used, and made anew: nothing is missing, what is damaged is named, what is cut off is no backup."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from matyan.backups.shelf import Shelf
from matyan.errors import ConfigurationError, MatyanError, NotFound
from matyan.folder.folder import open_folder
from tests.backups.made import (
    backed_up,
    call,
    inodes,
    modes,
    names,
    restored,
    seen,
    slow,
    upload,
    verified,
)
from tests.cli.test_main import fill
from tests.faults.test_full_disk import fill_up
from tests.small_disk import small_disk
from tests.tracker import Tracker, matyan, running, started
from tests.until import wait_for

__all__ = ["small_disk"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, an artifact and a token, which nobody holds."""
    data = tmp_path_factory.mktemp("kept") / "data"
    with running(data) as tracker:
        for run in ("first-1", "second-2"):
            fill(tracker, run)
        upload(tracker, "first-1", "model/weights.bin", b"w" * 50_000)
        assert tracker.stop() == 0
    matyan("tokens", "add", "training", "--scope", "write", "--data", data)
    return data


@pytest.fixture
def data(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "data"))


@pytest.fixture(scope="module")
def tracker(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    data = shutil.copytree(kept, tmp_path_factory.mktemp("running") / "data")
    (Path(data) / "tokens").unlink()
    with running(Path(data)) as tracker:
        yield tracker


def test_a_backup_beside_a_running_tracker_is_restored(tracker: Tracker, tmp_path: Path) -> None:
    """What was acknowledged before is in it, with its artifact; `check` finds nothing; only its owner may read it."""
    fill(tracker, "third-3", points=500)
    upload(tracker, "third-3", "late.bin", b"l" * 10)
    to = tmp_path / "backups"
    said = matyan("backup", tracker.data, "--to", to)
    (name,) = names(to) - {"lock"}
    assert said.stdout == f"{to / name}\n"
    assert verified(to) == {name: set()}
    again = tmp_path / "again"
    said = matyan("restore", to, "--to", again)
    assert "never run both" in said.stderr
    assert seen(again) == seen(tracker.data)
    assert set(seen(again)["third-3"][2]) == {"late.bin"}
    assert matyan("check", "--data", again).stdout == ""
    for folder in (to, again):
        assert modes(folder) == {(True, 0o700), (False, 0o600)}
    # Nothing of it is left where it was made.
    wait_for(lambda: not names(tracker.data / "checkpoints"))
    wait_for(lambda: not names(tracker.data / "blobs" / "~tmp"))


def test_what_stands_in_a_data_folder_is_in_it_or_said_not_to_be(
    data: Path, tmp_path: Path
) -> None:
    """The tokens are, since without them a tracker lets everybody in; the key that signs is not; what nobody knows is named."""
    (data / "notes.txt").write_text("mine")
    (data / "moving").mkdir()
    code, _, said = call("backup", data, "--to", tmp_path / "to")
    assert code == 0
    assert "no command has made it: notes.txt" in said
    again = restored(tmp_path / "to", tmp_path / "again")
    assert names(again) == {"rocksdb", "blobs", "tokens"}
    assert (again / "tokens").read_bytes() == (data / "tokens").read_bytes()
    assert seen(again) == seen(data)
    assert (again / "secret").read_bytes() != (data / "secret").read_bytes()


def test_the_second_backup_copies_what_is_new(data: Path, tmp_path: Path) -> None:
    """Unchanged tables and artifacts are the files of the one before; and each is whole when the other is gone."""
    to = tmp_path / "to"
    first = backed_up(data, to, "--full")
    assert first["copied_bytes"] == first["bytes"] == first["new_bytes"]
    ours, theirs = inodes(Path(first["path"]) / "data"), inodes(data)
    assert not {*ours.values()} & {*theirs.values()}
    second = backed_up(data, to)
    shared = {
        name
        for name, inode in inodes(Path(second["path"]) / "data").items()
        if ours.get(name) == inode
    }
    assert {name.partition("/")[0] for name in shared} == {"rocksdb", "blobs", "tokens"}
    assert {name for name in theirs if name.endswith(".sst")} & shared
    assert second["new_files"] == second["files"] - len(shared)
    assert second["number"] == 2
    shutil.rmtree(first["path"])
    assert verified(to) == {second["name"]: set()}
    assert seen(restored(to, tmp_path / "again")) == seen(data)


def test_a_table_of_the_same_name_in_a_restored_store_is_another(
    data: Path, tmp_path: Path
) -> None:
    """A store that was restored gives the numbers anew that were given behind its backup."""
    to, other = tmp_path / "to", tmp_path / "other"
    backed_up(data, to, "--full")
    restored(to, other)
    for folder, run in ((data, "here-1"), (other, "there-1")):
        (folder / "tokens").unlink()
        with running(folder) as tracker:
            fill(tracker, run)
            assert tracker.stop() == 0
        backed_up(folder, to)
    newest = restored(to, tmp_path / "again")
    assert set(seen(newest)) == {"first-1", "second-2", "there-1"}
    assert not any(verified(to).values())


def test_each_damage_is_named_and_nothing_damaged_is_restored(data: Path, tmp_path: Path) -> None:
    """A byte that was changed, a file that is gone, shorter, or one too many, a manifest that was edited."""
    to = tmp_path / "to"
    one, two, three = (backed_up(data, to, "--full") for _ in range(3))
    path = Path(one["path"])
    (table, *_) = sorted((path / "data/rocksdb").glob("*.sst"))
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    (blob,) = (path / "data/blobs/first-1").iterdir()
    blob.unlink()
    (path / "data/rocksdb/CURRENT").write_bytes(b"")
    (path / "data/blobs/first-1/x").write_bytes(b"")
    (path / "data/tokens").unlink()
    (path / "data/tokens").symlink_to(data / "tokens")
    edited = Path(two["path"]) / "manifest.json"
    edited.write_text(edited.read_text().replace('"number":2', '"number":7'))
    assert verified(to) == {
        one["name"]: {
            ("damaged", f"data/rocksdb/{table.name}"),
            ("missing", f"data/blobs/first-1/{blob.name}"),
            ("damaged", "data/rocksdb/CURRENT"),
            ("extra", "data/blobs/first-1/x"),
            ("damaged", "data/tokens"),
        },
        two["name"]: {("damaged", "manifest.json")},
        three["name"]: set(),
    }
    assert verified(to, three["name"]) == {three["name"]: set()}
    for broken in (one, two):
        with pytest.raises(MatyanError, match="is damaged, and nothing was restored"):
            restored(to, tmp_path / "again", broken["name"])
    assert not (tmp_path / "again").exists()
    _, out, _ = call("backup", "list", to, "--json")
    assert [(row["name"], row["state"] == "finished") for row in json.loads(out)] == [
        (two["name"], False),
        (one["name"], True),
        (three["name"], True),
    ]
    assert seen(restored(to, tmp_path / "again")) == seen(data)
    with pytest.raises(NotFound, match="There is no backup nonsense"):
        restored(to, tmp_path / "other", "nonsense")


def _hostile(path: Path, change: Callable[[Any], None]) -> None:
    """Another manifest, with a checksum that is right: whoever may write the folder can write that."""
    inner = json.loads(path.read_text())["backup"]
    change(inner)
    text = json.dumps(inner, sort_keys=True, indent=0, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(f'{{"sha256": "{digest}", "backup":\n{text}\n}}\n')


_FILE: Final = {"size": 0, "mtime_ns": 0, "sha256": hashlib.sha256(b"").hexdigest()}


@pytest.mark.parametrize(
    "change",
    [
        lambda inner: inner["files"].update({"../../outside": _FILE}),
        lambda inner: inner["files"].update({"rocksdb/../../outside": _FILE}),
        lambda inner: inner["files"].update({"/outside": _FILE}),
        lambda inner: inner["files"].update({"tokens/": _FILE}),
        lambda inner: inner["files"].update({"a\0b": _FILE}),
        lambda inner: inner["files"].update({"tokens": {**_FILE, "size": "0"}}),
        lambda inner: inner["files"].update({"tokens": {**_FILE, "mtime_ns": 10**30}}),
        lambda inner: inner["files"].update({"tokens": [1]}),
        lambda inner: inner.update(number="7"),
        lambda inner: inner.update(number=None),
        lambda inner: inner.update(moment="now"),
        lambda inner: inner.update(moment=1e300),
        lambda inner: inner.update(store=7),
        lambda inner: inner.update(offsets=[]),
        lambda inner: inner.update(format=2),
        lambda inner: inner.update(more=2),
    ],
)
def test_a_manifest_that_somebody_made_up_is_none(
    change: Callable[[Any], None], data: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    one = backed_up(data, to)
    two = backed_up(data, to)
    _hostile(Path(one["path"]) / "manifest.json", change)
    assert verified(to) == {one["name"]: {("damaged", "manifest.json")}, two["name"]: set()}
    with pytest.raises(MatyanError, match="is damaged, and nothing was restored"):
        restored(to, tmp_path / "again", one["name"])
    assert names(tmp_path) == {"to", data.name}
    backed_up(data, to)


@pytest.mark.parametrize("name", ["secret", "restoring", "else/where"])
def test_nothing_is_restored_that_no_backup_has(name: str, data: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    path = Path(backed_up(data, to)["path"])
    _hostile(path / "manifest.json", lambda inner: inner["files"].update({name: _FILE}))
    (path / "data" / name).parent.mkdir(exist_ok=True)
    (path / "data" / name).write_bytes(b"")
    with pytest.raises(MatyanError, match="which no backup of this version has"):
        restored(to, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_manifest_without_a_store_makes_no_folder(data: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    path = Path(backed_up(data, to)["path"])
    _hostile(path / "manifest.json", lambda inner: inner.update(files={}))
    shutil.rmtree(path / "data")
    with pytest.raises(MatyanError):
        restored(to, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_file_called_lock_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "lock").write_text("mine")
    backed_up(data, tmp_path / "to")
    assert (tmp_path / "to" / "lock").read_text() == "mine"


def test_old_ones_are_removed_behind_a_good_one(data: Path, tmp_path: Path) -> None:
    """--keep N leaves N, the new one among them; one that is read stays; where the new one is not good, all stay."""
    to = tmp_path / "to"
    made = [backed_up(data, to, "--keep", "2", *more)["name"] for more in ((), (), ("--full",))]
    assert names(to) == {"lock", *made[1:]}
    with Shelf(to).find(made[1]).held():
        last = backed_up(data, to, "--keep", "1")
        assert last["removed"] == [made[2]]
    assert names(to) == {"lock", made[1], last["name"]}
    # What both share is damaged: the new one would be no better than the old.
    (blob,) = (Path(last["path"]) / "data/blobs/first-1").iterdir()
    time_ns = blob.stat().st_mtime_ns
    blob.write_bytes(b"d" * blob.stat().st_size)
    os.utime(blob, ns=(time_ns, time_ns))
    code, out, said = call("backup", data, "--to", to, "--keep", "1", "--json")
    newest = json.loads(out)
    assert code == 1
    assert newest["removed"] == []
    assert [one["path"] for one in newest["findings"]] == [f"data/blobs/first-1/{blob.name}"]
    assert "make one with --full" in said
    assert names(to) == {"lock", made[1], last["name"], newest["name"]}
    healed = backed_up(data, to, "--full", "--keep", "1")
    assert names(to) == {"lock", healed["name"]}
    assert seen(restored(to, tmp_path / "again")) == seen(data)


def test_places_that_cannot_be_are_refused(data: Path, tmp_path: Path) -> None:
    """Backups inside of what they are of, of a cluster, of another store; a folder that is not empty; two at once."""
    for inside in (data, data / "backups", data / "blobs" / ".." / "x"):
        with pytest.raises(ConfigurationError, match="lies in the data folder"):
            backed_up(data, inside)
    (tmp_path / "way").symlink_to(data)
    with pytest.raises(ConfigurationError, match="lies in the data folder"):
        backed_up(data, tmp_path / "way" / "x")
    assert names(data) == names(data) - {"backups", "x"}
    for words in (("fdb:",), ("--store", "fdb:some.cluster")):
        with pytest.raises(ConfigurationError, match="fdbbackup"):
            call("backup", *words, "--to", tmp_path / "to")
    with pytest.raises(ConfigurationError, match="There is no tracker data"):
        backed_up(tmp_path / "nowhere", tmp_path / "to")
    to = tmp_path / "to"
    backed_up(data, to)
    other = tmp_path / "other"

    async def make() -> None:
        async with open_folder(other, None):
            pass

    trio.run(make)
    with pytest.raises(ConfigurationError, match="holds backups of another store"):
        backed_up(other, to)
    with Shelf(to).writing(), pytest.raises(MatyanError, match="Another backup is being written"):
        backed_up(data, to)
    with pytest.raises(ConfigurationError, match="is not empty"):
        restored(to, data)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        restored(to, tmp_path / "to" / "lock" / "x")
    assert len(names(to)) == 2


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_what_was_cut_off_is_no_backup(
    tracker: Tracker, tmp_path: Path, end: signal.Signals
) -> None:
    """Ctrl-C leaves nothing; a kill leaves what the next backup removes, and the tracker lets its files go."""
    to = tmp_path / "to"
    before = backed_up(tracker.data, to)["name"]
    words = slow("backup", tracker.data, "--to", to, "--full", before="CURRENT")
    with started(words, "waits") as process:
        assert names(tracker.data / "checkpoints")
        assert process.stop(end) == (130 if end == signal.SIGINT else -end)
    left = names(to) - {"lock", before}
    assert [name.endswith(".part") for name in left] == ([] if end == signal.SIGINT else [True])
    wait_for(lambda: not names(tracker.data / "checkpoints"))
    _, out, said = call("backup", "list", to)
    assert len(out.splitlines()) == 1
    assert ("is not finished" in said) == bool(left)
    assert verified(to) == {before: set()}
    after = backed_up(tracker.data, to)["name"]
    assert names(to) == {"lock", before, after}


def test_a_restore_that_was_cut_off_is_done_again(data: Path, tmp_path: Path) -> None:
    """No service starts on what it left; Ctrl-C leaves nothing at all."""
    to, again = tmp_path / "to", tmp_path / "again"
    backed_up(data, to)
    words = slow("restore", to, "--to", again, before="tokens")
    with started(words, "waits") as process:
        assert process.stop(signal.SIGINT) == 130
    assert not again.exists()
    with started(words, "waits") as process:
        assert process.stop(signal.SIGKILL) == -signal.SIGKILL
    assert names(again) == {"restoring"}
    refused = matyan("up", "--port", "0", "--data", again, check=2)
    assert "was not restored to its end" in refused.stderr
    # A kill between two renames.
    (again / "restoring" / "blobs").rename(again / "blobs")
    assert seen(restored(to, again)) == seen(data)


def test_a_disk_that_is_full_is_said_and_left_clean(
    data: Path, tmp_path: Path, small_disk: Path
) -> None:
    """Neither the backup nor the restore leaves anything behind, and both go on when there is room."""
    (blob,) = (data / "blobs/first-1").iterdir()
    with blob.open("ab") as file:
        file.write(os.urandom(4 << 20))
    to, again = small_disk / "to", small_disk / "again"
    backed_up(data, tmp_path / "elsewhere")
    filler = fill_up(small_disk)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        backed_up(data, to)
    assert names(to) == {"lock"}
    with pytest.raises(ConfigurationError, match="No space left on device"):
        restored(tmp_path / "elsewhere", again)
    assert not again.exists()
    filler.unlink()
    assert backed_up(data, to)["copied_bytes"] > 4 << 20
    assert seen(restored(to, again)) == seen(data)


def test_what_a_killed_tracker_left_goes_with_the_next(data: Path, tmp_path: Path) -> None:
    """Links to tables of a checkpoint would keep their space."""
    (data / "tokens").unlink()
    words = slow("backup", data, "--to", tmp_path / "to", "--full", before="CURRENT")
    with running(data) as tracker, started(words, "waits"):
        tracker.stop(signal.SIGKILL)
    assert names(data / "checkpoints")
    assert names(data / "blobs" / "~tmp")
    assert seen(data)
    assert not names(data / "checkpoints")
    assert not names(data / "blobs" / "~tmp")
