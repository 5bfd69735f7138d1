"""Images, audio, texts, figures and distributions as the read API shows them: sampled, with the ranges that the web app asks within.

The bytes of images and audio are asked for by a URI of ours: it names a run's sequence, a step and a place there and never a
blob, so that nobody gets at more with it than at what a search shows.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from matyan._codec import sample_ranks
from matyan.api.asked import Range
from matyan.api.plain import finite
from matyan.api.runs import RunView, View, text
from matyan.readable import is_int64, is_number
from matyan.rules.sequences import SequenceInfo

WITH_BLOBS: Final = ("images", "audios")
_LISTED: Final = (*WITH_BLOBS, "texts")
"""Kinds of which a step has a list."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Which steps, which objects of a step, and how many of each at most."""

    steps: Range = (None, None)
    most_steps: int = 50
    places: Range = (None, None)
    most_places: int = 5


@dataclass(frozen=True, slots=True)
class Sampled:
    """The chosen steps of one sequence."""

    steps: list[int]
    epochs: list[int | float | None]
    times: list[float]
    values: list[Any]
    first: int
    """Of all steps that there are."""
    last: int
    places: int
    """How many objects a step has at most, among the chosen ones."""


def sampled(run: RunView, kind: str, info: SequenceInfo, wish: Wish) -> Sampled | None:
    """Looks which steps there are, and then reads the chosen ones: an object may be as large as a message. None: no step is there."""
    view = run.view
    place = view.snap, run.run, info.ctx, info.name
    there = [*view.sequences.object_steps(*place)]
    if not there:
        return None
    within = [step for step in there if _is_within(step, wish.steps)]
    chosen = [within[rank] for rank in sample_ranks(len(within), wish.most_steps)]
    found = [row for step in chosen for row in view.sequences.objects(*place, step, _behind(step))]
    shown = _VALUES[kind]
    values: list[Any] = []
    places = 0
    for step, _, _, value in found:
        objects = value if isinstance(value, list) else [value]
        places = max(places, len(objects))
        uri = _Uris(run.run, info, step)
        if kind in _LISTED:
            inside = [at for at in range(len(objects)) if _is_within(at, wish.places)]
            picked = [inside[rank] for rank in sample_ranks(len(inside), wish.most_places)]
            values.append([shown(_fields(objects[at]), uri, at) for at in picked])
        else:
            values.append(shown(_fields(value), uri, 0))
    return Sampled(
        steps=[row[0] for row in found],
        epochs=[row[1] for row in found],
        times=[row[2] for row in found],
        values=values,
        first=there[0],
        last=there[-1],
        places=places,
    )


def _is_within(number: int, within: Range) -> bool:
    low, high = within
    return (low is None or number >= low) and (high is None or number < high)


def _behind(step: int) -> int | None:
    """The end of a range that ends with the step; None behind the last step that there can be."""
    return None if step == (1 << 63) - 1 else step + 1


def _fields(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


# --- the shapes ------------------------------------------------------------------------------------


def trace(run: RunView, info: SequenceInfo, found: Sampled) -> dict[str, Any]:
    """A sequence in a search for objects."""
    return {
        "name": info.name,
        "context": run.context(info),
        "values": found.values,
        "iters": found.steps,
        "epochs": found.epochs,
        "timestamps": found.times,
    }


def ranges(kind: str, all_found: list[Sampled], wish: Wish) -> dict[str, list[int]]:
    """The ranges of a run in a search for objects: of all its sequences together."""
    total = [min(one.first for one in all_found), max(one.last for one in all_found) + 1]
    used = {"record_range_total": total, "record_range_used": _cut(total, wish.steps)}
    if kind in _LISTED:
        places = [0, max(one.places for one in all_found)]
        used |= {"index_range_total": places, "index_range_used": _cut(places, wish.places)}
    return used


def flat(
    run: RunView, kind: str, info: SequenceInfo, found: Sampled, wish: Wish, step: int | None
) -> dict[str, Any]:
    """A sequence of one run; of one step, where that was asked for."""
    used = ranges(kind, [found], wish)
    if step is not None:
        used["record_range_used"] = [step, step]
    values = found.values
    if step is not None and kind in _LISTED:
        values = values[0] if values else []
    if kind == "figures":
        values = [{**value, "index": at} for at, value in enumerate(values)]
    return {
        "name": info.name,
        "context": run.context(info),
        "values": values,
        "iters": found.steps,
        "record_range_used": used["record_range_used"],
        "record_range_total": used["record_range_total"],
        "index_range_used": used.get("index_range_used"),
        "index_range_total": used.get("index_range_total"),
    }


def _cut(total: list[int], within: Range) -> list[int]:
    first, last = total
    low, high = within
    return [first if low is None else max(first, low), last if high is None else min(last, high)]


# --- the values ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Uris:
    run: str
    info: SequenceInfo
    step: int

    def at(self, place: int) -> str:
        packed = msgpack.packb([self.run, self.info.ctx, self.info.name, self.step, place])
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def s3_key_of(view: View, uri: str) -> str | None:
    """Which blob a URI leads to; None: to none."""
    try:
        padded = uri + "=" * (-len(uri) % 4)
        run, ctx, name, step, place = msgpack.unpackb(base64.urlsafe_b64decode(padded))
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    texts = isinstance(run, str) and isinstance(name, str)
    if not texts or not all(is_int64(number) for number in (ctx, step, place)):
        return None
    one = view.run(run)
    known = any((info.ctx, info.name) == (ctx, name) for info in one.of_kind(*WITH_BLOBS))
    if not known or not one.is_there:
        return None
    for _, _, _, value in view.sequences.objects(view.snap, run, ctx, name, step, _behind(step)):
        objects = value if isinstance(value, list) else [value]
        if 0 <= place < len(objects):
            # A client names the key: whatever it says, no other run's blobs are given away.
            key = text(_fields(objects[place]), "s3_key")
            return key if key.startswith(f"{run}/") else None
    return None


def _image(fields: dict[str, Any], uris: _Uris, at: int) -> dict[str, Any]:
    return {
        "caption": text(fields, "caption"),
        "width": fields.get("width"),
        "height": fields.get("height"),
        "format": text(fields, "format"),
        "blob_uri": uris.at(at),
        "index": at,
    }


def _audio(fields: dict[str, Any], uris: _Uris, at: int) -> dict[str, Any]:
    return {
        "caption": text(fields, "caption"),
        "format": text(fields, "format"),
        "blob_uri": uris.at(at),
        "index": at,
    }


def _text(fields: dict[str, Any], uris: _Uris, at: int) -> dict[str, Any]:
    return {"data": text(fields, "data"), "index": at}


def _figure(fields: dict[str, Any], uris: _Uris, at: int) -> dict[str, Any]:
    """The web app parses the text and sets its layout's autosize: strict JSON with a layout."""
    data = fields.get("data")
    try:
        data = finite(json.loads(data) if isinstance(data, str) else data)
    except (ValueError, RecursionError):
        data = None
    figure = dict(data) if isinstance(data, dict) else {"data": []}
    if not isinstance(figure.get("layout"), dict):
        figure["layout"] = {}
    return {"data": json.dumps(figure), "index": at}


def _distribution(fields: dict[str, Any], uris: _Uris, at: int) -> dict[str, Any]:
    weights, bounds = fields.get("data"), fields.get("range")
    data = weights if isinstance(weights, list) else []
    return {
        "data": [float(weight) if is_number(weight) else 0.0 for weight in data],
        "bin_count": fields.get("bin_count") or len(data),
        "range": bounds if isinstance(bounds, list) and len(bounds) == 2 else [0.0, 0.0],
    }


_VALUES: Final[dict[str, Callable[[dict[str, Any], _Uris, int], dict[str, Any]]]] = {
    "images": _image,
    "audios": _audio,
    "texts": _text,
    "figures": _figure,
    "distributions": _distribution,
}
