"""What two servers of the read API are asked to change, step by step, and what they show of it then.

Ids are each server's own: a step names the one that it gets, and later ones use that name in braces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.api.comparison import DELETED, Answer, Question, Server

_MOMENTS: Final = ("created_at", "updated_at", "creation_time", "end_time")


@dataclass(frozen=True)
class Step:
    question: Question
    keep: str = ""
    """The name of the id in its answer."""


@dataclass
class Session:
    """One server's, with the ids that it gave."""

    server: Server
    ids: dict[str, str] = field(default_factory=dict)

    def take(self, step: Step) -> Answer:
        """Its answer, with names where its own ids stand, and without the moments."""
        asked = step.question
        body = None if asked.body is None else json.loads(self._filled(json.dumps(asked.body)))
        answer = self.server.ask(replace(asked, path=self._filled(asked.path), body=body))
        if step.keep:
            self.ids[step.keep] = answer.content["id"]
        return replace(answer, content=self._nameless(answer.content))

    def _filled(self, text: str) -> str:
        for name, its in self.ids.items():
            text = text.replace(f"{{{name}}}", its)
        return text

    def _nameless(self, content: Any, member: str = "") -> Any:
        if isinstance(content, dict):
            return {
                self._nameless(name): self._nameless(item, name) for name, item in content.items()
            }
        if isinstance(content, list):
            return [self._nameless(item) for item in content]
        if member in _MOMENTS and isinstance(content, float):
            return "a moment"
        return next((f"{{{name}}}" for name, its in self.ids.items() if its == content), content)


def steps() -> Iterator[Step]:
    def get(path: str, **params: Any) -> Step:
        decode = "stream" if "search/run" in path else "json"
        return Step(Question(path, params, decode=decode))

    def post(path: str, body: Any, keep: str = "", **params: Any) -> Step:
        return Step(Question(path, params, body), keep)

    def put(path: str, body: Any) -> Step:
        return Step(Question(path, body=body, method="PUT"))

    def delete(path: str) -> Step:
        return Step(Question(path, method="DELETE"))

    def search(query: str) -> Step:
        plain = {"exclude_params": "true", "exclude_traces": "true"}
        return get("runs/search/run", q=query, **plain)

    yield post("experiments", {"name": "written"}, "experiment")
    yield post("experiments", {"name": "written"})
    yield put("experiments/{experiment}", {"name": "rewritten", "description": "d"})
    yield get("experiments/{experiment}")
    yield from _noted(post, get, put, delete, "experiments/{experiment}")
    yield from _noted(post, get, put, delete, "runs/finished")
    yield post("tags", {"name": "made", "color": "#3E72E7", "description": "d"}, "tag")
    yield post("tags", {"name": "made"})
    yield put("tags/{tag}", {"name": "remade", "archived": False})
    yield post("runs/finished/tags/new", {"tag_name": "remade"})
    yield get("tags/{tag}")
    yield get("tags/{tag}/runs")
    yield search("'remade' in run.tags")
    yield delete("runs/finished/tags/{tag}")
    yield search("'remade' in run.tags")

    yield put("runs/finished", {"name": "n", "description": "", "archived": True})
    yield get("runs/finished/info", skip_system="true")
    yield search("run.archived == True")
    yield search("")
    yield put("runs/finished", {"archived": False, "experiment": "alpha"})
    yield get("runs/finished/info", skip_system="true")
    yield search("run.experiment == 'alpha'")
    yield post("runs/archive-batch", ["finished", "lonely"], archive="true")
    yield search("")
    yield post("runs/archive-batch", ["finished"], archive="false")
    yield search("")

    yield post("apps", {"type": "metrics", "state": {"a": [1, {"b": None}]}}, "app")
    yield put("apps/{app}", {"type": "metrics", "state": {"a": []}})
    yield get("apps/{app}")
    board = {"name": "b", "description": "d", "app_id": "{app}"}
    yield post("dashboards", board, "dashboard")
    yield put("dashboards/{dashboard}", {"name": "c", "description": "e"})
    yield get("dashboards")
    yield delete("dashboards/{dashboard}")
    yield get("dashboards")
    yield post("reports", {"name": "r", "code": "# r", "description": "d"}, "report")
    yield put("reports/{report}", {"name": "s", "code": "# s", "description": "e"})
    yield get("reports")
    yield delete("reports/{report}")
    yield get("reports")
    yield post("projects/pinned-sequences", {"sequences": [{"name": "loss", "context": {}}]})
    yield get("projects/pinned-sequences")

    yield delete("tags/{tag}")
    yield get("tags")
    yield delete("experiments/{experiment}")
    yield get("experiments")
    yield delete("runs/lonely")
    yield get(DELETED)
    yield search("run.archived in [True, False]")
    yield put("runs/none", {"name": "n"})
    yield delete("runs/none")


def _noted(post: Any, get: Any, put: Any, delete: Any, of: str) -> Iterator[Step]:
    note = f"note of {of.partition('/')[0]}"
    yield post(f"{of}/note", {"content": "first"}, note)
    yield put(f"{of}/note/{{{note}}}", {"content": "second"})
    yield get(f"{of}/note")
    yield get(f"{of}/note/{{{note}}}")
    yield delete(f"{of}/note/{{{note}}}")
    yield get(f"{of}/note")
