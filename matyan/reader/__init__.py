"""Reading a tracker's data from Python.

    import matyan.reader
    with matyan.reader.open(".matyan") as reader:
        points = reader.metric(run, "loss", context={"subset": "train"})
        runs = reader.runs("run.hparams.lr < 0.01").to_pandas()

`open` takes a data folder, a store's name or the URL of a process that serves the read API. It asks the process that holds the data
folder (`matyan up`, `matyan ingest-worker`); when nobody holds it, and always for a FoundationDB cluster ("fdb:"), this process opens
the store for as long as the reader is open. No store, no trio and no printing here: the answers come through a socket, so that what a
command shows does not depend on who has the store open.

| file | subject |
|---|---|
| opening | what `open` takes, and who answers for it |
| reading | the questions |
| remote | the same over HTTP |
| blocks | points and objects, as they come |
| tables | rows and points as Arrow's tables |
| live | what a run logs while it goes on |
"""

from matyan.errors import ConfigurationError, InvalidQuery, MatyanError, NotFound, Unavailable
from matyan.reader.blocks import Block, Points
from matyan.reader.blocks import block as _block
from matyan.reader.opening import open
from matyan.reader.reading import Artifact, Reader

__all__ = [
    "Artifact",
    "Block",
    "ConfigurationError",
    "InvalidQuery",
    "MatyanError",
    "NotFound",
    "Points",
    "Reader",
    "Unavailable",
    "_block",
    "open",
]
