"""`/projects…` and `/version`: the store as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quart import Response, request
from quart_trio import QuartTrio

from matyan import __version__
from matyan.api import asked, overview
from matyan.api.asked import TIMEZONE
from matyan.api.plain import answer, dumped
from matyan.api.runs import KINDS, METRIC, View, text
from matyan.api.served import BASE, Served, streamed
from matyan.rules import documents


def add(app: QuartTrio, served: Served) -> None:
    reads, projects = served.reads, f"{BASE}/projects"

    @app.get(projects)
    async def project() -> Response:
        def body(view: View) -> dict[str, Any]:
            stored = documents.project(view.snap, view.keys)
            return {
                "name": text(stored, "name") or "My project",
                "path": text(stored, "path"),
                "description": text(stored, "description"),
                "telemetry_enabled": 0,
                "warn_index": False,
                "warn_runs": False,
            }

        return answer(await reads.one(body))

    @app.get(f"{projects}/status")
    async def status() -> Response:
        return answer("up-to-date")

    @app.get(f"{projects}/activity")
    async def activity() -> Response:
        offset = asked.timezone(request.headers.get(TIMEZONE, ""))
        return answer(await reads.one(lambda view: overview.activity(view, offset)))

    @app.get(f"{projects}/params")
    async def params() -> Response:
        kinds = asked.several(request.args, "sequence") or [METRIC, *KINDS]
        with_params = not asked.flag(request.args, "exclude_params", False)

        def rows(view: View) -> Iterator[bytes]:
            found = yield from overview.params(view, kinds, with_params=with_params)
            yield dumped(found).encode()

        return await streamed(served, rows, "application/json")

    @app.get(f"{projects}/pinned-sequences")
    async def pinned() -> Response:
        found = await reads.one(lambda view: documents.pinned(view.snap, view.keys))
        return answer({"sequences": found})

    @app.post(f"{projects}/pinned-sequences")
    async def pin() -> Response:
        fields = asked.members(await request.get_data(), sequences=list)
        sequences = [
            {"name": name, "context": context}
            for name, context in map(asked.sequence, fields.get("sequences", []))
        ]
        await served.changes.pin(sequences)
        return answer({"sequences": sequences})

    @app.get(f"{BASE}/version")
    async def version() -> Response:
        return answer({"version": __version__, "component": "backend", "fdb_api_version": 730})
