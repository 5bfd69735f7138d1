"""Two servers of the read API asked the same: where their answers differ, and which differences are meant.

No server is started here, and no question is chosen: `questions.py` has them.
"""

from __future__ import annotations

import io
import json
import math
import random
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.api.stream import shown

KINDS: Final = ("images", "texts", "distributions", "audios", "figures")
WITH_BLOBS: Final = ("images", "audios")
ABSENT: Final = "(absent)"
DELETED: Final = "runs/lonely/info"
"""What is asked of a run that was deleted before."""


@dataclass(frozen=True)
class Question:
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    """JSON of a body; None: there is none."""
    method: str = ""
    """GET, or POST where there is a body, unless it is named."""
    decode: str = "json"
    """json, stream, zip or bytes."""
    ordered: bool = False
    """Whether the order of a stream's objects matters."""
    sampled: bool = False
    """Fewer points are asked for than may be there."""

    @property
    def verb(self) -> str:
        return self.method or ("GET" if self.body is None else "POST")

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.params.items())
        body = "" if self.body is None else f" {json.dumps(self.body, ensure_ascii=False)[:90]}"
        return f"{self.verb} {self.path}{'?' if query else ''}{query}{body}"


@dataclass(frozen=True)
class Answer:
    status: int
    kind: str
    """Its content type."""
    content: Any


class Server:
    def __init__(self, url: str) -> None:
        self._base = f"{url}/api/v1/rest/"

    def ask(self, question: Question) -> Answer:
        """With the blobs themselves where their URIs stood, which each server makes as it likes.

        Raises:
            OSError, AssertionError: no answer, or one that cannot be read.
        """
        status, kind, body = self._raw(question)
        if status >= 400 or question.decode == "json":
            return Answer(status, kind, json.loads(body) if body else None)
        if question.decode == "stream":
            content = shown(body)
            uris = [*_uris(content)]
            if uris:
                of = next(of for of in WITH_BLOBS if of in question.path.split("/"))
                batch = Question(f"runs/{of}/get-batch", body=uris)
                content = _with_blobs(content, shown(self._raw(batch)[2]))
            return Answer(status, kind, content)
        if question.decode == "zip":
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                return Answer(
                    status, kind, {name: archive.read(name) for name in archive.namelist()}
                )
        return Answer(status, kind, body)

    def _raw(self, question: Question) -> tuple[int, str, bytes]:
        url = self._base + urllib.parse.quote(question.path)
        if question.params:
            url += "?" + urllib.parse.urlencode(question.params, doseq=True)
        data = None if question.body is None else json.dumps(question.body).encode()
        headers = {"Content-Type": "application/json", "X-Timezone-Offset": "-240"}
        request = urllib.request.Request(url, data, headers, method=question.verb)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.headers.get_content_type(), response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get_content_type(), error.read()


def _uris(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        if "blob_uri" in content:
            yield content["blob_uri"]
        content = [*content.values()]
    if isinstance(content, list):
        for item in content:
            yield from _uris(item)


def _with_blobs(content: Any, blobs: Mapping[str | int, Any]) -> Any:
    if isinstance(content, list):
        return [_with_blobs(item, blobs) for item in content]
    if isinstance(content, dict):
        return {
            key: blobs.get(value) if key == "blob_uri" else _with_blobs(value, blobs)
            for key, value in content.items()
        }
    return content


@dataclass(frozen=True)
class Difference:
    place: tuple[str, ...]
    """Where in the answer; () is its whole, ("status",) and ("content type",) are about it."""
    theirs: Any
    ours: Any

    @property
    def last(self) -> str:
        return self.place[-1] if self.place else ""

    def lies_in(self, *members: str) -> bool:
        """Whether it is an item, or the length, of one of these members."""
        return self.place[-2:-1] in {(member,) for member in members}

    def __str__(self) -> str:
        def short(value: Any) -> str:
            text = repr(value)
            return text if len(text) <= 120 else f"{text[:117]}…"

        return f"{' / '.join(self.place) or '(all)'}: {short(self.theirs)} | {short(self.ours)}"


def differences(question: Question, theirs: Answer, ours: Answer) -> list[Difference]:
    """Numbers are equal by value, NaN equals NaN, true is not 1. Objects of a list that have an identity are matched by it, whatever
    their order."""
    found = []
    if theirs.status != ours.status:
        found.append(Difference(("status",), theirs.status, ours.status))
    elif theirs.status < 400 and theirs.content is not None and theirs.kind != ours.kind:
        found.append(Difference(("content type",), theirs.kind, ours.kind))
    if question.ordered and [*theirs.content] != [*ours.content]:
        found.append(Difference(("order",), [*theirs.content], [*ours.content]))
    return [*found, *_between(theirs.content, ours.content, ())]


def _between(theirs: Any, ours: Any, place: tuple[str, ...]) -> Iterator[Difference]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in {**theirs, **ours}:
            if key in theirs and key in ours:
                yield from _between(theirs[key], ours[key], (*place, str(key)))
            else:
                here = (*place, str(key))
                yield Difference(here, theirs.get(key, ABSENT), ours.get(key, ABSENT))
    elif isinstance(theirs, list) and isinstance(ours, list):
        named = _named(theirs), _named(ours)
        if named[0] is not None and named[1] is not None:
            yield from _between(*named, place)
        elif len(theirs) != len(ours):
            yield Difference((*place, "length"), len(theirs), len(ours))
        else:
            for index, (one, other) in enumerate(zip(theirs, ours, strict=True)):
                yield from _between(one, other, (*place, str(index)))
    elif not _same(theirs, ours):
        yield Difference(place, theirs, ours)


def _named(items: list[Any]) -> dict[str, Any] | None:
    """These objects by what names each of them; None when their order is all they have."""
    if not all(isinstance(item, dict) for item in items):
        return None
    for members in (("id",), ("run_id",), ("path",), ("name", "context")):
        if all(member in item for item in items for member in members):
            names = [_text([item[member] for member in members]) for item in items]
            break
    else:
        if any({"index", "data", "values"} & set(item) for item in items):
            return None
        names = [_text(item) for item in items]  # contexts
    return dict(zip(names, items, strict=True)) if len({*names}) == len(names) else None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)


def _same(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, bool) or isinstance(ours, bool):
        return theirs is ours
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return theirs == ours or (math.isnan(theirs) and math.isnan(ours))
    return type(theirs) is type(ours) and bool(theirs == ours)


# --- what is meant --------------------------------------------------------------------------------

_POINTS: Final = {"values", "iters", "epochs", "timestamps", "x_axis_values", "x_axis_iters"}


def _is_of(path: str) -> Callable[[Question], bool]:
    return lambda question: question.path == path


Meant = tuple[str, Callable[[Question, Difference], bool]]

MEANT: Final[list[Meant]] = [
    (
        "each server names itself and its version",
        lambda q, d: q.path == "version",
    ),
    (
        "an error has a message, which is the only thing that the web app shows of it, and words of our own",
        lambda q, d: (
            d.place in {("message",), ("detail",), ("error", "message")} and d.ours != ABSENT
        ),
    ),
    (
        "a name that is taken is a conflict, as the SDK's restore expects",
        lambda q, d: (
            (q.verb, q.path) in {("POST", "experiments"), ("POST", "tags")}
            and (d.theirs, d.ours) in {(400, 409), ("bad_request", "conflict")}
        ),
    ),
    (
        "a run that is deleted is gone: theirs shows it until its rows are",
        lambda q, d: (
            q.path == DELETED and ((d.theirs, d.ours) == (200, 404) or ABSENT in (d.theirs, d.ours))
        ),
    ),
    (
        "a note tells when it was made, and not whose it is, which was asked",
        lambda q, d: (
            "/note" in q.path
            and (
                (d.last in {"experiment_id", "run_hash"} and d.ours == ABSENT)
                or (d.place == ("created_at",) and d.theirs == ABSENT)
            )
        ),
    ),
    (
        "what deletes an experiment tells its id, as what deletes a run does",
        lambda q, d: q.verb == "DELETE" and d.place == ("id",) and d.theirs == ABSENT,
    ),
    (
        "a slice is its server's own: it comes back to it in search/metric/align",
        lambda q, d: "slice" in d.place,
    ),
    (
        "sampled points go by rank, theirs by step",
        lambda q, d: q.sampled and bool(_POINTS & {*d.place}),
    ),
    (
        "theirs leaves epochs and timestamps empty: time axes are blank",
        lambda q, d: d.lies_in("epochs", "timestamps") and d.last == "length" and d.theirs == 0,
    ),
    (
        "first, min and max of theirs repeat last: ours are real, or are left out",
        lambda q, d: d.lies_in("values") and d.last in {"first", "min", "max"},
    ),
    (
        "the kinds that projects/params is asked for are its answer: theirs sends all",
        lambda q, d: (
            q.path == "projects/params"
            and d.place in {(kind,) for kind in KINDS if kind not in q.params["sequence"]}
            and d.ours == ABSENT
        ),
    ),
    (
        "an x axis stands at the steps that are sent: theirs is sent whole",
        lambda q, d: (
            d.lies_in("x_axis_values", "x_axis_iters") and d.last == "length" and d.ours < d.theirs
        ),
    ),
    (
        "active runs have no logs and objects among their metrics",
        lambda q, d: (
            q.path == "runs/active" and d.place[1:3] == ("traces", "metric") and d.ours == ABSENT
        ),
    ),
    (
        "every trace of search/metric/align is answered: they are joined by their places",
        lambda q, d: (
            q.path == "runs/search/metric/align"
            and d.theirs == ABSENT
            and isinstance(d.ours, dict)
            and d.ours["x_axis_values"] is None
        ),
    ),
    (
        "what is no metric has no last value: theirs has the default of a model, 0.1",
        lambda q, d: d.last == "last_value" and bool({*KINDS} & {*d.place}) and d.ours is None,
    ),
    (
        "a log record of level CRITICAL is shown as ERROR: the web app's page dies of the former",
        lambda q, d: d.last == "log_level" and (d.theirs, d.ours) == ("CRITICAL", "ERROR"),
    ),
]
"""Each difference that is meant, with its reason. One that is not seen any longer is an error, too."""


def reason_of(question: Question, difference: Difference) -> str | None:
    """Why it is meant; None: it is not."""
    return next((reason for reason, explains in MEANT if explains(question, difference)), None)


# --- the negative control -------------------------------------------------------------------------


def altered(content: Any, dice: random.Random) -> Any:
    """A copy with one thing in it changed, left out or put in; of nothing, something."""
    if isinstance(content, dict) and content:
        key = dice.choice([*content])
        changed = dict(content)
        match dice.randrange(6):
            case 0:
                del changed[key]
            case 1:
                changed["added"] = 1
            case _:
                changed[key] = altered(content[key], dice)
        return changed
    if isinstance(content, list) and content:
        place = dice.randrange(len(content))
        items = list(content)
        match dice.randrange(6):
            case 0:
                del items[place]
            case 1:
                items.append(altered(items[place], dice))
            case _:
                items[place] = altered(items[place], dice)
        return items
    match content:
        case dict():
            return {"added": 1}
        case list():
            return [0]
        case bool():
            return not content
        case int() | float():
            return content + 1 if math.isfinite(content) else 0.0
        case str():
            return content + "x"
        case bytes():
            return content + b"x"
    return 0
