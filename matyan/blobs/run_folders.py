"""What the folder of a run's blobs is called, so that no two runs share one.

It has the run's id for its name. Most Macs' file systems take `A` and `a` for one name, and there capital letters are written as small
ones, with a number that says where they stood: the bits of `abC=4`. No run id has a `=`.
"""

from __future__ import annotations

import os
from pathlib import Path

from matyan._codec import check_run_id


def folds_case(folder: Path) -> bool:
    """Whether the file system of this folder, in whose name there are letters, takes capital and small ones for the same."""
    other = folder.with_name(folder.name.swapcase())
    return other.exists() and os.path.samefile(folder, other)


def folder_of(run: str, *, folds: bool) -> str:
    capitals = sum(1 << place for place, letter in enumerate(run) if letter.isupper())
    return f"{run.lower()}={capitals:x}" if folds and capitals else run


def run_of(name: str) -> str | None:
    """The run whose folder this is, whichever file system it was made for; None: no run's."""
    small, mark, number = name.partition("=")
    if not mark:
        return name if check_run_id(name) is None else None
    try:
        capitals = int(number, 16)
    except ValueError:
        return None
    run = "".join(
        letter.upper() if capitals >> place & 1 else letter for place, letter in enumerate(small)
    )
    # Only one name means a run, and this one may be somebody else's.
    is_ours = check_run_id(run) is None and folder_of(run, folds=True) == name
    return run if is_ours else None


def rename_all(root: Path, *, folds: bool) -> None:
    """Gives the runs' folders of a data folder that comes from another file system the names that they have on this one.

    Raises:
        OSError: they cannot be renamed.
    """
    for name in os.listdir(root):
        run = run_of(name)
        if run is not None and (wanted := folder_of(run, folds=folds)) != name:
            (root / name).rename(root / wanted)
