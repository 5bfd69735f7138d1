"""`/runs/…`: searches, and what one run holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import trio
from quart import Response, request
from quart_trio import QuartTrio

from matyan._codec import LINES, LOG_RECORDS, tree_records
from matyan.api import asked, objects, plan, points, search
from matyan.api.archive import archive
from matyan.api.asked import TIMEZONE, Refused
from matyan.api.objects import WITH_BLOBS, Wish
from matyan.api.plain import answer, dumped
from matyan.api.query import Query, QueryError, parse
from matyan.api.runs import KINDS, METRIC, RunView, View
from matyan.api.served import BASE, Served, blob_bytes, known, octets, streamed
from matyan.errors import NotFound
from matyan.readable import is_int64
from matyan.rules import contexts

_LOG_TAIL: Final = 200
"""Lines or records that are sent where no range is asked for."""
_MOST_POINTS: Final = 1_000_000
"""What nobody draws; the SDK's backup asks for 50,000."""

_MOST_BLOB_BYTES: Final = 128 << 20
"""Of an image or an audio clip, which goes out as one record."""

_LEVELS: Final = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "ERROR"}
"""The web app's page dies of a CRITICAL."""


def add(app: QuartTrio, served: Served) -> None:
    reads = served.reads
    runs = f"{BASE}/runs"
    _add_searches(app, served)

    @app.get(f"{runs}/active")
    async def active() -> Response:
        reported = asked.flag(request.args, "report_progress", True)
        return await streamed(served, lambda view: search.active(view, reported=reported))

    @app.get(f"{runs}/<run>/info")
    async def info(run: str) -> Response:
        kinds = asked.several(request.args, "sequence") or [METRIC, *KINDS]
        skip_system = asked.flag(request.args, "skip_system", False)

        def body(view: View) -> dict[str, Any]:
            one = known(view, run)
            return {
                "params": one.params(skip_system=skip_system),
                "traces": one.overview(kinds),
                "props": one.props(),
                "artifacts": [
                    {
                        "name": path.rpartition("/")[2],
                        "path": path,
                        "uri": f"s3://{served.bucket}/{key}",
                    }
                    for path, key, _ in one.artifacts()
                ],
            }

        return answer(await reads.one(body))

    @app.post(f"{runs}/<run>/metric/get-batch")
    async def metric_batch(run: str) -> Response:
        wanted = asked.wanted_sequences(await request.get_data())
        steps = asked.steps(request.args, "record_range")
        most = min(asked.whole(request.args, "record_density", 50, least=1), _MOST_POINTS)

        def rows(view: View) -> Iterator[bytes]:
            # One metric after the other: all points of a run are more than memory should hold.
            one, before = known(view, run), "["
            for name, context in wanted:
                there = one.find(METRIC, name, context)
                if there is None:
                    yield b""
                    continue
                sampled = yield from points.sampled(one, there, most, steps, values_only=True)
                found = {"name": name, "context": context, **points.lists(sampled)}
                yield (before + dumped(found)).encode()
                before = ","
            yield b"]" if before == "," else b"[]"

        return await streamed(served, rows, "application/json")

    for kind in KINDS:
        _add_kind(app, served, kind)
    for kind in WITH_BLOBS:
        _add_blobs(app, served, kind)
    _add_logs(app, served)
    _add_artifacts(app, served)


# --- searches --------------------------------------------------------------------------------------


def _add_searches(app: QuartTrio, served: Served) -> None:
    searches = f"{BASE}/runs/search"

    async def explained(query: Query) -> Response:
        """For `explain=true`: not the matches, but where they would be looked for (`Plan.told`)."""
        return answer(await served.reads.one(lambda view: plan.explained(view, query.needs)))

    @app.get(f"{searches}/run")
    async def search_run() -> Response:
        args = request.args
        query = await _query(None)
        if asked.flag(args, "explain", False):
            return await explained(query)
        options: dict[str, Any] = {
            "sort": _sort(args.get("sort", "")),
            "limit": asked.whole(args, "limit", 0),
            "offset": args.get("offset", ""),
            "skip_system": asked.flag(args, "skip_system", True),
            "params": not asked.flag(args, "exclude_params", False),
            "traces": not asked.flag(args, "exclude_traces", False),
            "reported": asked.flag(args, "report_progress", True),
        }
        return await streamed(served, lambda view: search.runs(view, query, **options))

    @app.get(f"{searches}/metric")
    async def search_metric() -> Response:
        args = request.args
        query = await _query(METRIC)
        if asked.flag(args, "explain", False):
            return await explained(query)
        options: dict[str, Any] = {
            "most": min(asked.whole(args, "p", 50, least=1), _MOST_POINTS),
            "x_axis": args.get("x_axis") or None,
            "skip_system": asked.flag(args, "skip_system", True),
            "reported": asked.flag(args, "report_progress", True),
        }
        return await streamed(served, lambda view: search.metrics(view, query, **options))

    @app.post(f"{searches}/metric/align")
    async def align() -> Response:
        x_axis, wanted = _alignment(asked.body(await request.get_data()))

        def rows(view: View) -> Iterator[bytes]:
            for run, traces in wanted:
                one, found = view.run(run), []
                for trace in traces:
                    found.append((yield from points.aligned(one, *trace, x_axis)))
                    yield b""
                yield tree_records(run, found)

        return await streamed(served, rows)

    def add_kind(kind: str) -> None:
        @app.get(f"{searches}/{kind}", endpoint=f"search_{kind}")
        async def search_kind() -> Response:
            query, wish = await _query(kind), _wish()
            if asked.flag(request.args, "explain", False):
                return await explained(query)
            skip_system = asked.flag(request.args, "skip_system", True)
            reported = asked.flag(request.args, "report_progress", True)
            return await streamed(
                served,
                lambda view: search.kind(
                    view, query, kind, wish, skip_system=skip_system, reported=reported
                ),
            )

    for kind in KINDS:
        add_kind(kind)


async def _query(subject: str | None) -> Query:
    """The query of this request.

    Raises:
        Refused: it does not parse. The web app's editor marks the place, where it has an editor.
    """
    text = request.args.get("q", "")
    offset = asked.timezone(request.headers.get(TIMEZONE, ""))
    try:
        # A long one takes 0.3 s, in which the loop must read on what is being logged.
        return await trio.to_thread.run_sync(
            partial(parse, text, subject=subject, offset_minutes=offset)
        )
    except QueryError as error:
        if subject in (None, METRIC, "images"):
            place = {"statement": error.statement, "line": error.line, "offset": error.offset}
            raise Refused(400, str(error), message="SyntaxError", detail=place) from None
        raise Refused(400, str(error)) from None


def _wish() -> Wish:
    args = request.args
    return Wish(
        asked.steps(args, "record_range"),
        min(asked.whole(args, "record_density", 50, least=1), _MOST_POINTS),
        asked.steps(args, "index_range"),
        min(asked.whole(args, "index_density", 5, least=1), _MOST_POINTS),
    )


def _sort(text: str) -> tuple[tuple[str, bool], ...]:
    """(field, descending) pairs.

    Raises:
        Refused: it is no list of fields that runs can be sorted by.
    """
    if not text.strip():
        return ()
    try:
        wanted = json.loads(text)
        order: dict[str, bool] = {}
        for item in wanted:
            # A field's first mention decides.
            order.setdefault(_known_sort(item["field"]), item.get("order", "asc") == "desc")
        return tuple(order.items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Refused(
            400,
            f"sort: expected a JSON list of {{field, order}}, with a field among {', '.join(search.SORTS)} and asc or desc.",
        ) from None


def _known_sort(name: object) -> str:
    if not isinstance(name, str) or name not in search.SORTS:
        raise ValueError(name)
    return name


Trace = tuple[str, dict[str, Any], asked.Range, int]


def _alignment(body: object) -> tuple[str, list[tuple[str, list[Trace]]]]:
    """
    Raises:
        Refused: it is no request to align.
    """
    try:
        assert isinstance(body, dict)
        wanted = [
            (_text(run["run_id"]), [_trace(trace) for trace in run["traces"]])
            for run in body["runs"]
        ]
        return _text(body["align_by"]), wanted
    except (AssertionError, KeyError, OverflowError, TypeError, ValueError):
        raise Refused(
            422, "Expected {align_by, runs: [{run_id, traces: [{context, name, slice}]}]}."
        ) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _trace(item: Any) -> Trace:
    name, context = asked.sequence(item)
    # As the stream had them: a step beyond 32 bits is a float there, or a text.
    first, last, most = (None if part is None else int(part) for part in item["slice"])
    if most is None or not all(part is None or is_int64(part) for part in (first, last, most)):
        raise ValueError(item)
    return name, context, (first, last), max(1, min(most, _MOST_POINTS))


# --- images, texts and so on of one run --------------------------------------------------------------


def _add_kind(app: QuartTrio, served: Served, kind: str) -> None:
    path = f"{BASE}/runs/<run>/{kind}"

    def rows(
        view: View, run: str, wanted: list[Any], wish: Wish, step: int | None
    ) -> Iterator[bytes]:
        one = known(view, run)
        for name, context in wanted:
            yield b""
            info = one.find(kind, name, context)
            if info is None:
                continue
            at = info.last_step if step is not None and step < 0 else step
            chosen = wish if at is None else Wish((at, at + 1), 1, wish.places, wish.most_places)
            found = objects.sampled(one, kind, info, chosen)
            if found is not None and (found.steps or at is None):
                yield tree_records(None, objects.flat(one, kind, info, found, chosen, at))

    @app.post(f"{path}/get-batch", endpoint=f"{kind}_batch")
    async def batch(run: str) -> Response:
        wanted, wish = asked.wanted_sequences(await request.get_data()), _wish()
        return await streamed(served, lambda view: rows(view, run, wanted, wish, None))

    @app.post(f"{path}/get-step", endpoint=f"{kind}_step")
    async def step(run: str) -> Response:
        wanted, wish = asked.wanted_sequences(await request.get_data()), _wish()
        at = asked.whole(request.args, "record_step", -1, least=-(1 << 63))
        return await streamed(served, lambda view: rows(view, run, wanted, wish, at))


def _add_blobs(app: QuartTrio, served: Served, kind: str) -> None:
    @app.post(f"{BASE}/runs/{kind}/get-batch", endpoint=f"{kind}_blobs")
    async def blobs() -> Response:
        uris = list(dict.fromkeys(asked.texts(await request.get_data())))
        keys = await served.reads.one(lambda view: [objects.s3_key_of(view, uri) for uri in uris])

        async def body() -> Any:
            for uri, key in zip(uris, keys, strict=True):
                if key is not None and (data := await _blob(served, key)) is not None:
                    yield tree_records(uri, data)

        return octets(body())


async def _blob(served: Served, key: str) -> bytes | None:
    """The whole of a small blob; None where none was uploaded, or a large one: the others of an answer are sent all the same."""
    run, _, path = key.partition("/")
    try:
        _, size, pieces = await served.blobs.open(run, path)
    except NotFound:
        return None
    async with aclosing(pieces):
        if size > _MOST_BLOB_BYTES:
            return None
        return b"".join([piece async for piece in pieces])


# --- logs ------------------------------------------------------------------------------------------


def _add_logs(app: QuartTrio, served: Served) -> None:

    @app.get(f"{BASE}/runs/<run>/logs")
    async def logs(run: str) -> Response:
        steps = asked.steps(request.args, "record_range")

        def rows(view: View) -> Iterator[bytes]:
            one = view.run(run)
            for step, _, _, value in _entries(one, LINES, steps):
                yield tree_records(step, value if isinstance(value, str) else str(value))

        return await streamed(served, rows)

    @app.get(f"{BASE}/runs/<run>/log-records")
    async def log_records(run: str) -> Response:
        steps = asked.steps(request.args, "record_range")

        def rows(view: View) -> Iterator[bytes]:
            one = view.run(run)
            if not one.is_there:
                return
            place = view.snap, run, contexts.EMPTY, LOG_RECORDS
            yield tree_records(
                "log_records_count", sum(1 for _ in view.sequences.object_steps(*place))
            )
            for step, _, when, value in _entries(one, LOG_RECORDS, steps):
                fields = value if isinstance(value, dict) else {"message": value}
                yield tree_records(step, _record(fields, when))

        return await streamed(served, rows)


def _entries(
    run: RunView, name: str, steps: asked.Range
) -> Iterator[tuple[int, int | float | None, float, object]]:
    """Log entries in a range of steps; the last ones where none is given."""
    if not run.is_there:
        return iter(())
    view = run.view
    first, last = steps
    if steps == (None, None):
        info = next(
            (one for one in run.traces if (one.ctx, one.name) == (contexts.EMPTY, name)), None
        )
        first = None if info is None else max(info.last_step - _LOG_TAIL + 1, -(1 << 63))
    return view.sequences.objects(view.snap, run.run, contexts.EMPTY, name, first, last)


def _record(fields: dict[str, Any], when: float) -> dict[str, Any]:
    level = fields.get("log_level")
    time = fields.get("timestamp")
    return {
        "message": fields.get("message"),
        "log_level": _level(level) if isinstance(level, int) else "INFO",
        "timestamp": when if time is None else time,
        "args": fields.get("args"),
        "logger_info": fields.get("logger_info"),
        "is_notified": True,
    }


def _level(level: int) -> str:
    return "ERROR" if level >= 50 else _LEVELS.get(level, "INFO")


# --- artifacts -------------------------------------------------------------------------------------


def _add_artifacts(app: QuartTrio, served: Served) -> None:
    @app.get(f"{BASE}/runs/<run>/artifacts/download")
    async def download(run: str) -> Response:
        path = request.args.get("path", "")

        def body(view: View) -> tuple[str, str]:
            for there, key, content_type in known(view, run).artifacts():
                if there == path:
                    return key, content_type
            raise Refused(404, f"Run {run} has no artifact {path[:255]!r}.")

        key, content_type = await served.reads.one(body)
        owner, _, place = key.partition("/")
        if owner != run:
            raise Refused(404, f"Run {run} has no artifact {path[:255]!r}.")
        try:
            _, size, pieces = await served.blobs.open(owner, place)
        except NotFound:
            raise Refused(404, f"The artifact {path[:255]!r} was never uploaded.") from None
        response = blob_bytes(size, pieces, content_type)
        response.headers["Content-Disposition"] = attachment(path.rpartition("/")[2])
        response.headers["Content-Security-Policy"] = "sandbox"
        return response

    @app.get(f"{BASE}/runs/<run>/artifacts/download-all")
    async def download_all(run: str) -> Response:
        found = await served.reads.one(lambda view: [*known(view, run).artifacts()])
        if not found:
            raise Refused(404, f"Run {run} has no artifacts.")
        response = octets(archive(served.blobs, run, found), "application/zip")
        response.headers["Content-Disposition"] = attachment(f"{run}-artifacts.zip")
        return response


def attachment(name: str) -> str:
    """A Content-Disposition for any name (RFC 6266, with the extended notation of RFC 8187)."""
    plain = "".join(
        letter if letter.isascii() and letter.isprintable() and letter not in '"\\' else "_"
        for letter in name
    )
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
