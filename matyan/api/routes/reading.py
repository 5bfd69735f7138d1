"""`/reader/…`: what `matyan.reader` asks over a URL. The answers are messages (`service/messages.py`): exact, where the streams of the
other routes suit a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any, Final, cast

from quart import Response, request
from quart_trio import QuartTrio

from matyan.api import asked
from matyan.api.asked import Refused
from matyan.api.reading import Reading
from matyan.api.runs import View
from matyan.api.served import BASE, Served, blob_bytes, known, streamed
from matyan.errors import MatyanError, NotFound
from matyan.readable import is_int64, is_number
from matyan.service import messages
from matyan.service.messages import Pieces
from matyan.store.base import View as StoreView


def add(app: QuartTrio, served: Served) -> None:
    @app.post(f"{BASE}/reader/<op>/get-batch")
    async def read(op: str) -> Response:
        arguments = _arguments(asked.body(await request.get_data()))

        def rows(view: View) -> Iterator[bytes]:
            reads = Reading(view.keys, view.sequences).reads()
            if op not in reads:
                raise Refused(
                    404, f"There is no question {op[:100]!r}: use the same version of matyan."
                )
            try:
                found = reads[op](view.snap, **arguments)
            except TypeError:
                raise Refused(
                    422, f"{op!r} is not asked like this: use the same version of matyan."
                ) from None
            return _messages(view, found)

        return await streamed(served, rows)

    @app.get(f"{BASE}/reader/blob")
    async def blob() -> Response:
        """The bytes of an artifact, or of an image or an audio clip, which are among them."""
        run, path = request.args.get("run", ""), request.args.get("path", "")
        await served.reads.one(partial(known, run=run))
        try:
            _, size, pieces = await served.blobs.open(run, path)
        except NotFound:
            raise Refused(404, f"Run {run[:128]} has no bytes for {path[:255]!r}.") from None
        return blob_bytes(size, pieces)


def _messages(view: View, rows: Iterator[object]) -> Iterator[bytes]:
    with closing(Pieces(rows)) as pieces:
        is_last = False
        try:
            while not is_last:
                piece, is_last = pieces.next()
                yield piece
        except MatyanError as error:
            yield messages.refusal(error)
        else:
            yield messages.end(cast("StoreView", view.snap).moments)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_seen(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list)
        and len(row) == 3
        and is_int64(row[0])
        and isinstance(row[1], str)
        and is_int64(row[2])
        for row in value
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return is_int64(value) and value >= 0


_KNOWN: Final = {
    **dict.fromkeys(("experiment", "kind", "name", "query", "run", "tag"), _is_text),
    **dict.fromkeys(("active", "archived", "counts", "metrics"), _is_bool),
    **dict.fromkeys(("names", "runs"), _is_texts),
    "context": lambda value: isinstance(value, dict),
    "heard_before": is_number,
    "limit": _is_count,
    "offset_minutes": lambda value: is_int64(value) and abs(value) <= 24 * 60,
    "seen": _is_seen,
}


def _arguments(body: object) -> dict[str, Any]:
    """
    Raises:
        Refused: no question takes them.
    """
    if not isinstance(body, dict):
        raise Refused(422, "The body is not a JSON object.")
    for name, value in body.items():
        if name not in _KNOWN or not (value is None or _KNOWN[name](value)):
            raise Refused(422, f"{name[:100]}: not what is expected here.")
    # For `seen` null means something.
    return {name: value for name, value in body.items() if value is not None or name == "seen"}
