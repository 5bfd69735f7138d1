"""`/experiments…` and `/tags…`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from quart import Response, request
from quart_trio import QuartTrio

from matyan.api import asked, overview
from matyan.api.asked import TIMEZONE, Refused
from matyan.api.plain import answer
from matyan.api.runs import View, paged, text
from matyan.api.served import BASE, Served, known
from matyan.rules import entities
from matyan.rules.documents import Fields
from matyan.rules.entities import EXPERIMENTS, TAGS

_NAME_BYTES: Final = 512
"""The contract's limit of names."""

_SHOWN: Final[dict[str, Callable[[str, Fields], dict[str, Any]]]] = {
    EXPERIMENTS: overview.experiment,
    TAGS: overview.tag,
}


def add(app: QuartTrio, served: Served) -> None:
    for family in (EXPERIMENTS, TAGS):
        _add_family(app, served, family)
    reads = served.reads

    @app.get(f"{BASE}/experiments/<id>/runs")
    async def experiment_runs(id: str) -> Response:
        limit, offset = asked.whole(request.args, "limit", 0), request.args.get("offset", "")

        def body(view: View) -> dict[str, Any]:
            _there(view, EXPERIMENTS, id)
            rows = {row["run_id"]: row for row in overview.experiment_runs(view, id)}
            order = [*rows]
            if offset and offset not in rows:
                known(view, offset)  # it may belong to another experiment now
                order = view.by_date([*rows, offset])
            return {"id": id, "runs": [rows[run] for run in paged(order, offset, limit)]}

        return answer(await reads.one(body))

    @app.get(f"{BASE}/experiments/<id>/activity")
    async def experiment_activity(id: str) -> Response:
        offset = asked.timezone(request.headers.get(TIMEZONE, ""))

        def body(view: View) -> dict[str, Any]:
            _there(view, EXPERIMENTS, id)
            return overview.experiment_activity(view, id, offset)

        return answer(await reads.one(body))

    @app.get(f"{BASE}/tags/<id>/runs")
    async def tag_runs(id: str) -> Response:
        def body(view: View) -> dict[str, Any]:
            _there(view, TAGS, id)
            return {"id": id, "runs": [*overview.tag_runs(view, id)]}

        return answer(await reads.one(body))


def _there(view: View, family: str, id: str) -> Fields:
    fields = entities.read(view.snap, view.keys, family, id)
    if not fields:
        raise Refused(404, f"There is no {family[:-1]} {id[:64]}.")
    return fields


def _add_family(app: QuartTrio, served: Served, family: str) -> None:
    reads, changes, path, shown = served.reads, served.changes, f"{BASE}/{family}", _SHOWN[family]

    def listed(view: View, part: str = "") -> list[dict[str, Any]]:
        return [
            shown(id, fields)
            for id, fields in entities.listed(view.snap, view.keys, family)
            if part in text(fields, "name").casefold()
        ]

    @app.get(path, endpoint=f"{family}_all")
    async def all_of_them() -> Response:
        return answer(await reads.one(listed))

    @app.get(f"{path}/search", endpoint=f"{family}_search")
    async def search() -> Response:
        part = request.args.get("q", "").strip().casefold()
        return answer(await reads.one(lambda view: listed(view, part)))

    @app.get(f"{path}/<id>", endpoint=f"{family}_one")
    async def one(id: str) -> Response:
        return answer(await reads.one(lambda view: shown(id, _there(view, family, id))))

    @app.post(path, endpoint=f"{family}_make")
    async def make() -> Response:
        fields = _fields(await request.get_data(), family)
        if "name" not in fields:
            raise Refused(422, "name: a text is required.")
        id = await changes.make(family, **fields)
        return answer({"id": id, "status": "OK"})

    @app.put(f"{path}/<id>", endpoint=f"{family}_change")
    async def change(id: str) -> Response:
        await changes.change(family, id, _fields(await request.get_data(), family))
        return answer({"id": id, "status": "OK"})

    @app.delete(f"{path}/<id>", endpoint=f"{family}_remove")
    async def remove(id: str) -> Response:
        await changes.remove_entity(family, id)
        # As the reference's API server answers to the web app.
        return answer(None if family == TAGS else {"id": id, "status": "OK"})


def _fields(data: bytes | str, family: str) -> dict[str, Any]:
    """
    Raises:
        Refused: they are no fields of an experiment or a tag.
    """
    colors: dict[str, type] = {"color": str} if family == TAGS else {}
    fields = asked.members(data, name=str, description=str, archived=bool, **colors)
    if "archived" in fields:
        fields["is_archived"] = fields.pop("archived")
    if "name" in fields:
        check_name(fields["name"])
    return fields


def check_name(name: str) -> None:
    """
    Raises:
        Refused: it is over the contract's limit of names.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise Refused(422, "name: not valid Unicode.") from None
    if not 1 <= size <= _NAME_BYTES:
        raise Refused(422, f"name: expected 1 to {_NAME_BYTES} bytes, got {size}.")
