"""TensorBoard's event files.

A folder that has event files is a run, as TensorBoard shows it; its files are read by name, which begins with the time that they were
made. Where a training was restarted, TensorBoard drops what the restart has made void, and so does this: a restart is a later file of
the folder, and points of a series in earlier files at or behind its first step there (or behind the step of a SessionLog START) are
void. Within one file steps may come in any order; where one stands twice the later counts.

The messages: tensorflow/core/util/event.proto, framework/summary.proto, histogram.proto and tensor.proto; the plugins' own:
tensorboard/plugins/hparams/plugin_data.proto.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from matyan.errors import ConfigurationError
from matyan.importers import source
from matyan.importers.protobuf import messages
from matyan.importers.source import Blob, Message, Report, Run
from matyan.importers.tfrecord import checksum, records
from matyan.importers.tree import walk

EXTRA: Final = "tensorboard"

_SCHEMA: Final = {
    "Event": {
        "wall_time": (1, "double"),
        "step": (2, "int64"),
        "file_version": (3, "string"),
        "graph_def": (4, "bytes"),
        "summary": (5, "Summary"),
        "log_message": (6, "LogMessage"),
        "session_log": (7, "SessionLog"),
        "tagged_run_metadata": (8, "Skipped"),
        "meta_graph_def": (9, "bytes"),
    },
    "Skipped": {},
    "LogMessage": {"level": (1, "int32"), "message": (2, "string")},
    "SessionLog": {"status": (1, "int32")},
    "Summary": {"value": (1, "Value*")},
    "Value": {
        "node_name": (7, "string"),
        "tag": (1, "string"),
        "metadata": (9, "Metadata"),
        "simple_value": (2, "float"),
        "image": (4, "Image"),
        "histo": (5, "Histogram"),
        "audio": (6, "Audio"),
        "tensor": (8, "Tensor"),
    },
    "Metadata": {
        "plugin_data": (1, "PluginData"),
        "display_name": (2, "string"),
        "data_class": (4, "int32"),
    },
    "PluginData": {"plugin_name": (1, "string"), "content": (2, "bytes")},
    "Image": {
        "height": (1, "int32"),
        "width": (2, "int32"),
        "encoded_image_string": (4, "bytes"),
    },
    "Audio": {
        "sample_rate": (1, "float"),
        "encoded_audio_string": (4, "bytes"),
        "content_type": (5, "string"),
    },
    "Histogram": {
        "min": (1, "double"),
        "max": (2, "double"),
        "bucket_limit": (6, "double*"),
        "bucket": (7, "double*"),
    },
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "Shape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "float*"),
        "double_val": (6, "double*"),
        "int_val": (7, "int32*"),
        "string_val": (8, "bytes*"),
        "int64_val": (10, "int64*"),
        "bool_val": (11, "bool*"),
        "half_val": (13, "int32*"),
    },
    "Shape": {"dim": (2, "Dim*")},
    "Dim": {"size": (1, "int64")},
    "HParamsData": {
        "session_start_info": (3, "SessionStart"),
        "session_end_info": (4, "SessionEnd"),
    },
    "SessionStart": {
        "hparams": (1, "map:HValue"),
        "group_name": (4, "string"),
        "start_time_secs": (5, "double"),
    },
    "SessionEnd": {"status": (1, "int32"), "end_time_secs": (2, "double")},
    "HValue": {
        "number_value": (2, "double"),
        "string_value": (3, "string"),
        "bool_value": (4, "bool"),
    },
}

_START: Final = 1  # SessionLog.SessionStatus
_SESSION_TAGS: Final = "_hparams_/"
_LEVELS: Final = {2: 50}
"""LogMessage.Level counts tens: INFO is 20. What is no ten is FATAL."""
_OLD_IMAGE: Final = re.compile(r"(.+)/(image|audio)(?:/(\d+))?\Z")


def looks_like(path: Path) -> bool:
    if path.is_file():
        return "tfevents" in path.name
    return next(_folders(path), None) is not None


def runs(path: Path, report: Report) -> Iterator[Run]:
    """The runs of a folder, or of one event file.

    Raises:
        ConfigurationError: a library is missing, or there is no event file.
    """
    wire = messages(EXTRA, "tensorboard", _SCHEMA)
    masked = checksum(EXTRA)
    ids = source.Ids("tensorboard")
    folders = [(path.parent, [path])] if path.is_file() else _folders(path)
    top = (path.parent if path.is_file() else path).resolve()
    found = False
    for folder, files in folders:
        found = True
        at = folder.resolve()
        inside = folder.relative_to(path) if path.is_dir() else Path()
        label = at.name if inside == Path() else inside.as_posix()
        events = _EventRun(wire, masked, label, top.name, files)
        if (begun := events.begun()) is None and path.is_file():
            raise ConfigurationError(f"{path} is no event file of TensorBoard.")
        if begun is None:
            report.damage("folder whose event files have no whole record", label)
            continue
        yield events.run(ids.of(*begun, otherwise=label))
    if not found:
        raise ConfigurationError(f"{path} has no event file of TensorBoard (…tfevents…) in it.")


def _folders(top: Path) -> Iterator[tuple[Path, list[Path]]]:
    for folder, files in walk(top):
        events = [file for file in files if "tfevents" in file.name and not _is_marker(file)]
        if events:
            yield folder, events


def _is_marker(file: Path) -> bool:
    """Of the profiler, which says with it that there are profiles."""
    return file.name.endswith(".profile-empty")


_Object = tuple[str, dict[str, Any] | None, dict[str, Any], bytes | None]
"""Name, context, the object and, for one whose bytes are a blob, these."""


@dataclass(slots=True)
class _Tag:
    """What is known of one tag of a run."""

    plugin: str
    content: bytes = b""
    name: str = ""
    class_: int = 0
    void_from: list[float] = field(default_factory=list)
    """For each file: the first step that a later file makes void."""


class _EventRun:
    """A folder of event files as one run."""

    def __init__(
        self,
        wire: Any,
        masked: Callable[[bytes], int],
        label: str,
        experiment: str,
        files: list[Path],
    ) -> None:
        self._wire = wire
        self._masked = masked
        self._label = label
        self._experiment = experiment
        self._files = files
        self._has_blobs = True
        self._started = 0.0
        self.id = ""

    def begun(self) -> tuple[str, str] | None:
        """What stays when the folder is moved and its files grow: the name of its first file, and the time of the first record in it.
        None: there is no record."""
        for file in self._files:
            for event in self._events(file, Report()):
                self._started = event.wall_time
                return file.name, repr(event.wall_time)
        return None

    def run(self, id: str) -> Run:
        self.id = id
        return Run(id, self._label, source.version(self._files), self.messages, self.blobs)

    def _events(self, file: Path, report: Report) -> Iterator[Any]:
        parse = self._wire.Event.FromString
        try:
            for data in records(file, self._masked, report):
                try:
                    event = parse(data)
                except Exception as error:  # noqa: BLE001 - each implementation of the library has its own
                    report.damage("record that is no event", f"{file.name}: {error}")
                    continue
                yield event
        except OSError as error:
            report.damage("file that cannot be read", f"{file}: {error.strerror}")

    def _void(self) -> tuple[list[float], dict[str, list[float]]]:
        """From which step on the points of each file are void: for all tags, and by tag."""
        count = len(self._files)
        for_all = [math.inf] * count
        lowest: list[dict[str, int]] = [{} for _ in range(count)]
        for number, file in enumerate(self._files[1:], 1):
            for event in self._events(file, Report()):
                if event.HasField("session_log") and event.session_log.status == _START:
                    for earlier in range(number):
                        for_all[earlier] = min(for_all[earlier], event.step)
                if event.HasField("summary"):
                    steps = lowest[number]
                    for value in event.summary.value:
                        tag = value.tag or value.node_name
                        if event.step < steps.get(tag, math.inf):
                            steps[tag] = event.step
        by_tag: dict[str, list[float]] = {}
        for tag in {tag for steps in lowest for tag in steps}:
            void = [math.inf] * count
            for number in range(count - 2, -1, -1):
                void[number] = min(void[number + 1], lowest[number + 1].get(tag, math.inf))
            by_tag[tag] = void
        return for_all, by_tag

    # --- messages ------------------------------------------------------------------------------

    def messages(self, report: Report) -> Iterator[Message]:
        started = self._started
        yield source.begun(started)
        yield from source.described(report, called=self._label, experiment=self._experiment)
        imported = {"from": "tensorboard", "folder": self._label}
        yield from source.attributes({"imported": imported}, report)
        last = started
        self._has_blobs = False
        for event, value, tag in self._values(report):
            if last < event.wall_time and source.moment(event.wall_time):
                last = event.wall_time
            yield from self._message(event, value, tag, report)
        yield source.ended(last)

    def _values(self, report: Report) -> Iterator[tuple[Any, Any, _Tag]]:
        """The values that count, with their events and what is known of their tags; for an event without a summary, the event alone."""
        for_all, by_tag = self._void() if len(self._files) > 1 else ([math.inf], {})
        tags: dict[str, _Tag] = {}
        nothing = _Tag("")
        for number, file in enumerate(self._files):
            void_for_all = for_all[number]
            for event in self._events(file, report):
                if not event.HasField("summary"):
                    yield event, None, nothing
                    continue
                step = event.step
                for value in event.summary.value:
                    word = value.tag or value.node_name
                    known = tags.get(word)
                    if known is None or (value.HasField("metadata") and not known.plugin):
                        data = value.metadata.plugin_data
                        known = tags[word] = _Tag(
                            data.plugin_name,
                            data.content,
                            source.sequence_name(word, None, report),
                            value.metadata.data_class,
                            by_tag.get(word, for_all),
                        )
                    if step >= void_for_all or step >= known.void_from[number]:
                        report.leave_out("point that a restart has made void", f"{word} at {step}")
                        continue
                    yield event, value, known

    def _message(self, event: Any, value: Any, tag: _Tag, report: Report) -> Iterator[Message]:
        if value is None:
            yield from self._other(event, report)
            return
        when = source.moment(event.wall_time)
        if when is None:
            report.change("time that is none, now 1970", tag.name)
            when = source.moment(0.0)
            assert when is not None
        if value.HasField("simple_value"):
            yield source.point(tag.name, None, event.step, value.simple_value, when)
            return
        if value.tag.startswith(_SESSION_TAGS):
            yield from self._hparams(value.metadata.plugin_data.content or tag.content, report)
            return
        objects = self._objects(event, value, tag, report)
        if isinstance(objects, float):
            yield source.point(tag.name, None, event.step, objects, when)
            return
        for name, context, one, data in objects:
            if data is not None:
                self._has_blobs = True
                path = source.media_path(name, context, event.step, one["format"])
                yield source.custom(
                    name,
                    context,
                    event.step,
                    {**one, "s3_key": f"{self.id}/{path}"},
                    when,
                )
            else:
                yield source.custom(name, context, event.step, one, when)

    def _other(self, event: Any, report: Report) -> Iterator[Message]:
        if event.HasField("log_message"):
            logged = event.log_message
            yield {
                "type": "log_record",
                "message": source.line(logged.message, report, "log message"),
                "level": _LEVELS.get(logged.level, logged.level),
                "timestamp": event.wall_time,
            }
        elif event.HasField("graph_def") or event.HasField("meta_graph_def"):
            report.leave_out("graph of a model", self._label)
        elif event.HasField("tagged_run_metadata"):
            report.leave_out("metadata of a TensorFlow session", self._label)

    def _hparams(self, content: bytes, report: Report) -> Iterator[Message]:
        """Hyperparameters, which the plugin writes as data of a tag."""
        try:
            data = self._wire.HParamsData.FromString(content)
        except Exception as error:  # noqa: BLE001 - each implementation of the library has its own
            report.damage("hyperparameters that cannot be read", f"{self._label}: {error}")
            return
        if not data.HasField("session_start_info"):
            return
        values: dict[str, Any] = {}
        for key, value in data.session_start_info.hparams.items():
            if value.HasField("bool_value"):
                values[key] = value.bool_value
            elif value.HasField("string_value"):
                values[key] = value.string_value
            elif value.HasField("number_value"):
                values[key] = value.number_value
            else:
                values[key] = None
        yield from source.attributes({"hparams": values}, report)

    # --- objects -------------------------------------------------------------------------------

    def _objects(self, event: Any, value: Any, tag: _Tag, report: Report) -> float | list[_Object]:
        where = f"{tag.name} at {event.step}"
        if value.HasField("image"):
            name, context = self._of_old(tag.name)
            image = value.image
            return [
                (name, context, *self._image(image.encoded_image_string, image.width, image.height))
            ]
        if value.HasField("audio"):
            name, context = self._of_old(tag.name)
            audio = value.audio
            return [(name, context, *self._audio(audio.encoded_audio_string, audio.sample_rate))]
        if value.HasField("histo"):
            return self._histogram(value.histo, tag.name, report, where)
        if not value.HasField("tensor"):
            report.leave_out("value of an unknown kind", where)
            return []
        return self._of_tensor(value.tensor, tag, report, where)

    def _of_old(self, tag: str) -> tuple[str, dict[str, Any] | None]:
        """The name of a series of images or audio: writers of the first format add "/image" and a number to the tag."""
        found = _OLD_IMAGE.match(tag)
        if found is None or found[3] is None:
            return tag, None
        return found[1], {"index": int(found[3])}

    def _image(self, data: bytes, width: int, height: int) -> tuple[dict[str, Any], bytes]:
        format = source.image_format(data)
        size = {"width": width or None, "height": height or None}
        return {"type": "image", "format": format, "caption": "", **size}, data

    def _audio(self, data: bytes, rate: float, caption: str = "") -> tuple[dict[str, Any], bytes]:
        format = "wav" if data[:4] == b"RIFF" else "bin"
        fields = {"type": "audio", "format": format, "caption": caption}
        return {**fields, "rate": int(rate) if rate and math.isfinite(rate) else None}, data

    def _histogram(self, histogram: Any, name: str, report: Report, where: str) -> list[_Object]:
        limits, counts = list(histogram.bucket_limit), list(histogram.bucket)
        full = [at for at, count in enumerate(counts) if count]
        edges: list[float] = []
        if full and len(limits) == len(counts):
            # The first bucket begins, and the last ends, where the values do: writers give them limits of 1e308.
            first, last = full[0], full[-1]
            inner = limits[first:last]
            low = min(histogram.min, *inner, limits[last])
            edges = [low, *inner, max(histogram.max, low, *inner)]
            counts = counts[first : last + 1]
        return self._distribution(edges, counts, name, report, where)

    def _distribution(
        self, edges: list[float], counts: list[float], name: str, report: Report, where: str
    ) -> list[_Object]:
        made = source.distribution(edges, counts, report, where)
        if made is None:
            report.leave_out("histogram without values, or with infinite ones", where)
            return []
        return [(name, None, made, None)]

    def _of_tensor(
        self, tensor: Any, tag: _Tag, report: Report, where: str
    ) -> float | list[_Object]:
        values = _numbers(tensor) if tensor.dtype != _STRING else tensor.string_val
        plugin = tag.plugin or _PLUGIN_OF_CLASS.get(tag.class_, "")
        if values is None:
            report.leave_out("tensor of a type that is not read", where)
            return []
        if plugin in ("", "scalars") and len(values) == 1 and tensor.dtype != _STRING:
            return float(values[0])
        if plugin == "histograms" and tensor.dtype != _STRING:
            rows = [values[at : at + 3] for at in range(0, len(values), 3)]
            if not rows or len(rows[-1]) != 3:
                report.leave_out("histogram without values, or with infinite ones", where)
                return []
            edges = [rows[0][0], *(row[1] for row in rows)]
            return self._distribution(edges, [row[2] for row in rows], tag.name, report, where)
        if tensor.dtype == _STRING and plugin in ("", "text", "images", "audio"):
            return self._of_texts([*values], tensor, plugin, tag)
        kind = f"tensor of the plugin {plugin}" if plugin else "tensor of more than one number"
        report.leave_out(kind, where)
        return []

    def _of_texts(self, values: list[bytes], tensor: Any, plugin: str, tag: _Tag) -> list[_Object]:
        if plugin == "images":
            # Width, height, and the images of a batch.
            width, height = (int(size) if size.isdigit() else 0 for size in values[:2])
            made = [self._image(data, width, height) for data in values[2:]]
        elif plugin == "audio":
            labelled = len(tensor.tensor_shape.dim) == 2 and tensor.tensor_shape.dim[1].size == 2
            pairs = values[::2] if labelled else values
            labels = values[1::2] if labelled else [b""] * len(values)
            made = [
                self._audio(data, 0, label.decode(errors="replace"))
                for data, label in zip(pairs, labels, strict=False)
            ]
        else:
            texts = [{"type": "text", "data": text.decode(errors="replace")} for text in values]
            return [
                (tag.name, source.numbered(None, at, len(texts)), text, None)
                for at, text in enumerate(texts)
            ]
        return [
            (tag.name, source.numbered(None, at, len(made)), fields, data)
            for at, (fields, data) in enumerate(made)
        ]

    # --- blobs ---------------------------------------------------------------------------------

    def blobs(self, _report: Report) -> Iterator[Blob]:
        """Images and audio stand between the points: the files are read once more, where there are any."""
        if not self._has_blobs:
            return
        quiet = Report()  # `messages` has told of everything
        for event, value, tag in self._values(quiet):
            if value is None or value.HasField("simple_value"):
                continue
            if value.tag.startswith(_SESSION_TAGS):
                continue
            objects = self._objects(event, value, tag, quiet)
            if isinstance(objects, float):
                continue
            for name, context, one, data in objects:
                if data is not None:
                    path = source.media_path(name, context, event.step, one["format"])
                    type_ = source.content_type(one["format"])
                    yield source.in_memory(path, type_, data)


# --- tensors ---------------------------------------------------------------------------------------

_STRING: Final = 7
_PLUGIN_OF_CLASS: Final = {1: "scalars"}
"""Metadata.data_class: a writer may leave the plugin open."""
_PACKED: Final = {
    1: "f",
    2: "d",
    3: "i",
    4: "B",
    5: "h",
    6: "b",
    9: "q",
    10: "?",
    17: "H",
    19: "e",
    22: "I",
    23: "Q",
}
"""DataType (types.proto) as the module struct has it."""
_LISTS: Final = {1: "float_val", 2: "double_val", 9: "int64_val", 10: "bool_val"}
_HALF: Final = 19
_BFLOAT16: Final = 14


def _numbers(tensor: Any) -> list[float] | None:
    """All numbers of a tensor; None: its type is not read."""
    kind = tensor.dtype
    if kind == _BFLOAT16:
        data = tensor.tensor_content or struct.pack(f"<{len(tensor.half_val)}H", *tensor.half_val)
        halves = [data[at : at + 2] for at in range(0, len(data) - 1, 2)]
        return [struct.unpack("<f", b"\0\0" + half)[0] for half in halves]
    code = _PACKED.get(kind)
    if code is None:
        return None
    if content := tensor.tensor_content:
        count = len(content) // struct.calcsize(code)
        return [*struct.unpack_from(f"<{count}{code}", content)]
    if kind == _HALF:
        packed = struct.pack(f"<{len(tensor.half_val)}H", *tensor.half_val)
        return [*struct.unpack(f"<{len(tensor.half_val)}e", packed)]
    values = [*getattr(tensor, _LISTS.get(kind, "int_val"))]
    size = math.prod(dim.size for dim in tensor.tensor_shape.dim)
    # One that stands once fills the tensor (tensor.proto); for a large one that is no number to show.
    return values * size if len(values) == 1 and 1 < size <= 1 << 16 else values
