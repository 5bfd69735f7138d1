"""What is written of runs: their properties and tags, and their end."""

from __future__ import annotations

from typing import Any

from quart import Response, request
from quart_trio import QuartTrio

from matyan._codec import check_run_id
from matyan.api import asked
from matyan.api.asked import Refused
from matyan.api.plain import answer, empty
from matyan.api.routes.entities import check_name
from matyan.api.served import BASE, Served

_OK = {"status": "OK"}


def add(app: QuartTrio, served: Served) -> None:
    changes, runs = served.changes, f"{BASE}/runs"

    @app.put(f"{runs}/<run>")
    async def change(run: str) -> Response:
        wish = asked.members(
            await request.get_data(),
            name=str,
            description=str,
            archived=bool,
            active=bool,
            experiment=str,
        )
        if "experiment" in wish:
            check_name(wish["experiment"])
        await changes.run(run, wish)
        return answer({"id": run, **_OK})

    @app.delete(f"{runs}/<run>")
    async def delete(run: str) -> Response:
        await changes.delete(run)
        return answer({"id": run, **_OK})

    @app.post(f"{runs}/delete-batch")
    async def delete_batch() -> Response:
        for run in dict.fromkeys(asked.texts(await request.get_data())):
            try:
                await changes.delete(run)
            except Refused as refused:
                if refused.status != 404:  # another page may have deleted it
                    raise
        return answer(_OK)

    @app.post(f"{runs}/archive-batch")
    async def archive_batch() -> Response:
        archived = asked.flag(request.args, "archive", True)
        await changes.archive(asked.texts(await request.get_data()), archived)
        return answer(_OK)

    @app.post(f"{runs}/finish-batch")
    async def finish_batch() -> Response:
        await changes.finish(asked.texts(await request.get_data()))
        return answer(_OK)

    @app.post(f"{runs}/<run>/clear-tombstone")
    async def clear_tombstone(run: str) -> Response:
        if (reason := check_run_id(run)) is not None:
            raise Refused(422, f"run_id: {reason}")
        await changes.clear_tombstone(run)
        return empty(204)

    @app.post(f"{runs}/<run>/tags/new")
    async def add_tag(run: str) -> Response:
        fields: dict[str, Any] = asked.members(await request.get_data(), tag_name=str)
        if "tag_name" not in fields:
            raise Refused(422, "tag_name: a text is required.")
        check_name(fields["tag_name"])
        tag = await changes.add_tag(run, fields["tag_name"])
        return answer({"id": run, "tag_id": tag, **_OK})

    @app.delete(f"{runs}/<run>/tags/<tag>")
    async def remove_tag(run: str, tag: str) -> Response:
        await changes.remove_tag(run, tag)
        return answer({"id": run, "removed": True, **_OK})
