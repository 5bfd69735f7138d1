"""Serves the reference's API, `matyan-backend` 0.3.0 unmodified, on a dump of a store: no FoundationDB, Kafka or S3.

    python serve.py --port PORT DUMP

The dump is msgpack: {"directories": {"data/runs": PREFIX, …}, "pairs": [[KEY, VALUE], …], "blobs": {S3_KEY: BYTES}}. What is
written through it stays in memory; what it would send to Kafka goes nowhere.

Runs in the reference's environment: it imports nothing of this project.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import stand_in


def load(database: stand_in.Database, dump: Mapping[str, Any]) -> None:
    """Fills the database; each key gets the prefix that its directory has here.

    Raises:
        KeyError: a key is in none of the directories.
        FDBError: a pair that FoundationDB would refuse.
    """
    import fdb.directory_impl

    layer = fdb.directory_impl.directory
    prefixes = {
        prefix: layer.create_or_open(database, tuple(name.split("/"))).key()
        for name, prefix in dump["directories"].items()
    }
    pairs: dict[bytes, bytes] = {}
    for key, value in dump["pairs"]:
        stand_in.check_sizes(key, value)
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is None:
            raise KeyError(f"{key!r} is in no directory")
        pairs[prefixes[prefix] + key[len(prefix) :]] = value
    database.load(pairs)


def use_blobs(blobs: Mapping[str, bytes]) -> None:
    """Puts the dump's blobs in the place of an S3 bucket."""
    from botocore.exceptions import ClientError
    from matyan_backend.storage import s3_client

    def get(key: str) -> bytes:
        try:
            return blobs[key]
        except KeyError:
            raise ClientError(
                {"Error": {"Code": "NoSuchKey", "Message": key}}, "GetObject"
            ) from None

    def stream(key: str, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        content = get(key)
        for start in range(0, len(content), chunk_size):
            yield content[start : start + chunk_size]

    s3_client.get_blob = get
    s3_client.stream_blob = stream
    s3_client.get_blob_size = lambda key: len(get(key))


def without_kafka() -> None:
    """Both producers take what they are given and send nothing."""
    from matyan_backend.kafka import producer

    async def start(self: Any) -> None:
        self._producer = object()

    async def stop(self: Any) -> None:
        self._producer = None

    async def publish(self: Any, message: Any) -> None: ...

    for kind in (producer.ControlEventProducer, producer.DataIngestionProducer):
        kind.start, kind.stop, kind.publish = start, stop, publish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("dump", type=Path)
    options = parser.parse_args()
    # Set before the packages read their settings; a .env file in the working folder does not win over them.
    os.environ |= {"BLOB_BACKEND_TYPE": "s3", "MATYAN_ENVIRONMENT": "development"}
    database = stand_in.install()
    dump = msgpack.unpackb(options.dump.read_bytes(), strict_map_key=False)
    load(database, dump)
    without_kafka()
    use_blobs(dump["blobs"])

    import uvicorn
    from loguru import logger
    from matyan_backend.app import app

    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    uvicorn.run(app, host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
