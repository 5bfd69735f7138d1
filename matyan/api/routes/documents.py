"""`/dashboards`, `/apps`, `/reports`, and the notes of runs and experiments: what people write in the web app."""

from __future__ import annotations

from typing import Any, Final

from quart import Response, request
from quart_trio import QuartTrio

from matyan.api import asked
from matyan.api.asked import Refused
from matyan.api.changes import must_be
from matyan.api.plain import answer, empty
from matyan.api.runs import View, number, text
from matyan.api.served import BASE, Served, known
from matyan.rules import documents
from matyan.rules.documents import CREATED, UPDATED, Family, Fields
from matyan.rules.entities import EXPERIMENTS

_TEXTS: Final[dict[Family, dict[str, type]]] = {
    "dashboards": {"name": str, "description": str, "app_id": str},
    "dashboard_apps": {"type": str, "state": dict},
    "reports": {"name": str, "code": str, "description": str},
    "notes": {"content": str},
}


def _shown(view: View, family: Family, id: str, fields: Fields) -> dict[str, Any]:
    times = {name: number(fields.get(name)) for name in (UPDATED, CREATED)}
    if family == "dashboard_apps":
        state = fields.get("state")
        own: dict[str, Any] = {
            "type": text(fields, "type"),
            "state": state if isinstance(state, dict) else {},
        }
    else:
        own = {name: text(fields, name) for name in _TEXTS[family]}
    if family == "dashboards":
        app = documents.read(view.snap, view.keys, "dashboard_apps", own["app_id"])
        own["app_type"] = text(app, "type") or None
    return {"id": id, **own, **times}


def add(app: QuartTrio, served: Served) -> None:
    _add_family(app, served, "dashboards", "dashboards")
    _add_family(app, served, "dashboard_apps", "apps")
    _add_family(app, served, "reports", "reports")
    _add_notes(app, served, "runs", "run_hash")
    _add_notes(app, served, "experiments", "experiment_id")


def _add_family(app: QuartTrio, served: Served, family: Family, name: str) -> None:
    reads, changes, path = served.reads, served.changes, f"{BASE}/{name}"

    async def shown(id: str) -> dict[str, Any]:
        def body(view: View) -> dict[str, Any]:
            fields = must_be(view.snap, view.keys, family, id)
            if fields.get("is_archived"):
                raise Refused(404, f"There is nothing of the id {id[:64]} any more.")
            return _shown(view, family, id, fields)

        return await reads.one(body)

    @app.get(path, endpoint=f"{name}_all")
    async def all_of_them() -> Response:
        def body(view: View) -> list[dict[str, Any]]:
            return [
                _shown(view, family, id, fields)
                for id, fields in documents.listed(view.snap, view.keys, family)
                if not fields.get("is_archived")
            ]

        return answer(await reads.one(body))

    @app.get(f"{path}/<id>", endpoint=f"{name}_one")
    async def one(id: str) -> Response:
        return answer(await shown(id))

    @app.post(path, endpoint=f"{name}_make")
    async def make() -> Response:
        fields = asked.members(await request.get_data(), **_TEXTS[family])
        return answer(await shown(await changes.write(family, None, fields)), 201)

    @app.put(f"{path}/<id>", endpoint=f"{name}_change")
    async def change(id: str) -> Response:
        fields = asked.members(await request.get_data(), **_TEXTS[family])
        return answer(await shown(await changes.write(family, id, fields)))

    @app.delete(f"{path}/<id>", endpoint=f"{name}_remove")
    async def remove(id: str) -> Response:
        if family == "dashboards":
            await changes.write(family, id, {"is_archived": True})
        else:
            await changes.remove(family, id)
        return empty(204)


def _add_notes(app: QuartTrio, served: Served, name: str, field: str) -> None:
    """field: which one of a note says whose it is."""
    reads, changes, path = served.reads, served.changes, f"{BASE}/{name}/<owner>/note"

    def must_be_there(view: View, owner: str) -> None:
        if name == "runs":
            known(view, owner)
        elif not view.entity(EXPERIMENTS, owner):
            raise Refused(404, f"There is no experiment {owner[:64]}.")

    def note(view: View, owner: str, id: str) -> Fields:
        fields = must_be(view.snap, view.keys, "notes", id)
        if fields.get(field) != owner:
            raise Refused(404, f"There is no note {id[:64]} here.")
        return fields

    @app.get(path, endpoint=f"{name}_notes")
    async def notes(owner: str) -> Response:
        def body(view: View) -> list[dict[str, Any]]:
            return [
                _shown(view, "notes", id, fields)
                for id, fields in documents.listed(view.snap, view.keys, "notes")
                if fields.get(field) == owner
            ]

        return answer(await reads.one(body))

    @app.post(path, endpoint=f"{name}_note_make")
    async def make(owner: str) -> Response:
        await reads.one(lambda view: must_be_there(view, owner))
        fields = asked.members(await request.get_data(), content=str)
        id = await changes.write("notes", None, {"content": "", **fields, field: owner})
        made = await reads.one(lambda view: note(view, owner, id))
        return answer({"id": id, "created_at": made.get(CREATED)}, 201)

    @app.get(f"{path}/<id>", endpoint=f"{name}_note")
    async def one(owner: str, id: str) -> Response:
        return answer(
            await reads.one(lambda view: _shown(view, "notes", id, note(view, owner, id)))
        )

    @app.put(f"{path}/<id>", endpoint=f"{name}_note_change")
    async def change(owner: str, id: str) -> Response:
        fields = asked.members(await request.get_data(), content=str)
        await reads.one(lambda view: note(view, owner, id))
        await changes.write("notes", id, fields)
        changed = await reads.one(lambda view: note(view, owner, id))
        return answer(
            {"id": id, "content": text(changed, "content"), "updated_at": changed.get(UPDATED)}
        )

    @app.delete(f"{path}/<id>", endpoint=f"{name}_note_remove")
    async def remove(owner: str, id: str) -> Response:
        await reads.one(lambda view: note(view, owner, id))
        await changes.remove("notes", id)
        return answer({"status": "OK"})
