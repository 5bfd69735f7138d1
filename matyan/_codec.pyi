"""What `_codec.pyx` offers, typed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

# --- the contract's limits and names (its section 6) ---------------------------------------------

MAX_RECORD_BYTES: int
"""Of a message, as its record in the broker."""
MAX_KEY_BYTES: int
MAX_VALUE_BYTES: int
"""Of one stored value."""
MAX_HPARAMS_BYTES: int
"""Of all that one log_hparams stores."""
MAX_NAME_BYTES: int
"""Of a sequence, a tag or an experiment."""
MAX_BLOB_KEY_BYTES: int
MAX_RUN_ID_BYTES: int
MAX_ITEMS: int
"""Of a frame."""
MAX_DEPTH: int
"""Of JSON."""

LINES: str
"""The sequence of a run's terminal lines, in the empty context."""
LOG_RECORDS: str
"""The sequence of its log records, in the empty context."""
LEAF: str
"""How a tree names a scalar, and so on: what the store keeps for itself, so that no attribute is called so."""
EMPTY_DICT: str
EMPTY_LIST: str
BLOBS: str
"""The attribute that holds a run's blobs."""

# --- columns -----------------------------------------------------------------------------------

class Columns:
    """Metric points as columns: step int64 or None, value float64, time float64 (epoch seconds), epoch int64 where it is
    an integer, float64 where it has a fraction, or None."""

    @property
    def stepless(self) -> int:
        """How many points have no step."""
    def append(
        self, step: int | None, value: float, time: float, epoch: int | float | None = None
    ) -> None:
        """Raises OverflowError, and appends nothing, on a step outside of int64 or on what is no epoch_number."""
    def __len__(self) -> int: ...
    def rows(self) -> list[tuple[int | None, float, float, int | float | None]]: ...
    def extend(self, other: Columns) -> None: ...
    def fill_steps(self, next_step: int) -> int:
        """Gives each point without a step the next free one, in order, counting also the steps that the
        points before it bring (a point's next free step = highest step so far + 1, or `next_step` if higher).
        Returns the next free step after the last point. Raises OverflowError, and changes nothing, when
        2^63 - 1 is taken. This and all that follows but the plain bytes of values and times need steps:
        ValueError when some are missing."""
    def follow(self, step: int | None, value: float) -> tuple[int, float, bool]:
        """What `last_step` and `last` are after these points, in their order, when they were `step` and `value`
        before (None: no point before): a point at or above the highest step moves last_step, and last too when
        it is finite. The third: whether each step is higher than the one before it."""
    def merged(self) -> Columns:
        """A copy sorted by step, of a step that stands twice only the later point."""
    def between(self, begin: int | None, end: int | None) -> Columns:
        """A copy of the points with begin <= step < end; None: no bound."""
    def sampled(self, most: int) -> Columns:
        """A copy of at most so many points, by `sample_ranks`."""
    def sampled_of(self, before: int, total: int, most: int) -> Columns:
        """A copy of those points that `sampled(most)` of `total` points would have, of which `before` stand in front of these."""
    def steps_as_doubles(self) -> bytes:
        """float64 little endian, len * 8 bytes: rounded where a step has more than 53 bits."""
    def epochs_as_doubles(self) -> bytes:
        """The same; NaN for a point that has none."""
    def steps_bytes(self) -> bytes:
        """int64 little endian, len * 8 bytes; likewise values, times (float64) and epochs (see epoch_mask)."""
    def values_bytes(self) -> bytes: ...
    def times_bytes(self) -> bytes: ...
    def epochs_bytes(self) -> bytes: ...
    def epoch_mask(self) -> bytes:
        """One byte a point: 0 when it has no epoch, 1 when its epoch is an int64, 3 when it is a float64."""

class Summary:
    """How many steps a sequence has, and the first, lowest and highest of its finite values (None: it has none); exact as long as
    what is added stands behind all that was added before."""

    def __init__(
        self,
        count: int = 0,
        first: float | None = None,
        min: float | None = None,
        max: float | None = None,
    ) -> None:
        """first, min and max: all or none."""
    @property
    def count(self) -> int: ...
    @property
    def first(self) -> float | None: ...
    @property
    def min(self) -> float | None: ...
    @property
    def max(self) -> float | None: ...
    def add(self, columns: Columns) -> None:
        """Points, in the order of their steps."""
    def add_entries(self, count: int) -> None:
        """Steps at which something stands that is no point."""
    def packed(self, last_step: int) -> bytes:
        """msgpack: [last_step, count, first, min, max], the last three null where no value is finite."""

def sample_ranks(size: int, most: int) -> list[int]:
    """The ranks of at most `most` of `size` things in order: all, or evenly by rank, round(i * (size - 1) / (most - 1)), the
    first and the last among them; of one the first."""

def epoch_number(number: int | float | None) -> int | float | None:
    """An epoch as it is kept: an int where it is an integer (5.0 is 5), a float where it has a fraction.
    Raises OverflowError when it is an integer outside of int64, or not finite."""

# --- json: frames (frontier) -------------------------------------------------------------------

class NotJSON(ValueError):
    """The frame is not JSON (or not UTF-8, or nested too deep at the top); str() is the reason for the client."""

class Validated:
    """What `validate` made of one client frame."""

    count: int
    """Items in the frame (0 for `[]`)."""
    records: list[bytes]
    """The broker record of each valid item, in order."""
    kinds: list[int]
    """Per valid item its index into KINDS."""
    rejected: list[tuple[int, str, str]]
    """Per rejected item (index, type or "", reason such as "step: expected an integer")."""

KINDS: tuple[str, ...]

def validate(frame: bytes | bytearray | memoryview, run: bytes, timestamp: bytes) -> Validated:
    """Validates one client frame and envelopes its valid items as broker records.

    run: the run id of the URL, already checked. timestamp: ASCII "2026-01-02T03:04:05.678901Z".
    Raises NotJSON when the frame as a whole cannot be read.
    """

class Validator:
    """`validate` for a message that arrives in pieces: what is judged is not held.

    run, timestamp: as `validate` takes them.
    """

    held: int
    """Bytes that it and its results take now."""
    waits: bool
    """Whether an item of more than 1 MiB waits for `judge`."""
    def __init__(self, run: bytes, timestamp: bytes) -> None: ...
    def feed(self, data: bytes) -> bool:
        """Takes the next piece. False: call `judge`, then this again with b""."""
    def end(self) -> bool:
        """There is no more. False: call `judge`, then this again."""
    def judge(self) -> None:
        """Judges the item that waits: up to a second, in which other threads run."""
    def result(self) -> Validated:
        """After `end`; also the records so far. Raises NotJSON as `validate` does."""

def check_run_id(run: str) -> str | None:
    """Why this is no run id (contract, section 6), or None."""

def check_artifact_path(run: str, path: str) -> str | None:
    """Why this is no artifact path, or None."""

def error_reply(frame: Validated) -> bytes:
    """The reply of a frame with rejected items (contract, section 1), JSON in UTF-8."""

def format_timestamp(epoch_us: int) -> bytes:
    """Microseconds since the epoch as b"2026-01-02T03:04:05.678901Z"."""

def parse_timestamp(text: bytes | str) -> float:
    """A client_datetime or record timestamp as epoch seconds. Raises ValueError."""

# --- json: records (workers) -------------------------------------------------------------------

class MetricPoints:
    """Consecutive log_metric records of one sequence of one run in a batch."""

    run: str
    name: str
    ctx: int
    """`context_id` of the context: where the search for its id begins."""
    context: bytes
    """The context as the first of the points spelled it; b"{}" when empty or null."""
    context_text: str
    """Its `context_text`: what makes it this context and no other."""
    dtype: str
    """As sent by the last of the points; "float" for null."""
    columns: Columns
    first: int
    """Index in the batch of the first of its records."""
    timestamp: float
    """The first record's timestamp, epoch seconds: created_at of a run that is made on demand."""
    last_timestamp: float

class Record:
    """Any other record."""

    index: int
    kind: str
    run: str
    timestamp: float
    payload: dict[str, Any]

class Malformed:
    """Bytes that are no record: for the dead letters."""

    index: int
    reason: str

def decode_records(values: Sequence[bytes]) -> list[MetricPoints | Record | Malformed]:
    """A batch in the log's order, its points grouped.

    The points of one sequence are gathered into one MetricPoints as long as no other record of the same run stands
    between them: a MetricPoints comes before the next Record of its run. Those of different sequences commute.
    """

def total_bytes(values: Sequence[bytes]) -> int:
    """The bytes of all of them."""

def cut_records(
    values: Sequence[bytes], most_bytes: int, most_records: int, most_work: int, point_work: int
) -> list[int]:
    """Where a batch is to be cut so that each piece is one transaction's: the ends of the pieces.

    `most_work` and `point_work` (of a log_metric) are in about microseconds of the store's work, estimated by each record's
    kind and size before anything is decoded; a record that is too much alone is a piece of its own.
    """

def context_text(context: object) -> str:
    """The canonical JSON text (contract, section 4) of a decoded object or None: two contexts are the same when
    theirs are. true, 1 and 1.0 are three; two NaN are one."""

def context_id(context: object) -> int:
    """The first 8 hex digits of the text's SHA-256; 0 of the empty one. Two contexts can share it: see contexts.py."""

# --- tuples: FoundationDB's tuple layer and msgpack ---------------------------------------------

def pack(items: Iterable[object], prefix: bytes = b"") -> bytes:
    """`prefix` and the tuple layer's encoding of str, bytes, int (64 bit and beyond), float (double), bool, None,
    nested tuple or list."""

def unpack(key: bytes, start: int = 0) -> tuple[Any, ...]:
    """The inverse, from the byte `start` on; raises ValueError on anything that pack does not write."""

def key_int(prefix: bytes, number: int) -> bytes:
    """pack((number,), prefix) for an int64, without the tuple."""

def names_hash(key: bytes, start: int = 0) -> int:
    """64 bits, of the texts with which the packed tuple behind `start` begins; the last one is left out where nothing follows
    it."""

def range_of(prefix: bytes) -> tuple[bytes, bytes]:
    """(prefix + 0x00, prefix + 0xff): every tuple that continues `prefix` (the tuple layer's range)."""

def msgpack_value(value: object) -> bytes:
    """What msgpack.packb(value, use_bin_type=True) gives for None, bool, int, float, str, bytes, dict, list, tuple;
    an aware datetime is ext type 1 holding a packed float of epoch seconds. Raises TypeError on any other type,
    OverflowError on an int outside of -2^63 ... 2^64-1, ValueError on nesting beyond 128."""

def msgpack_float(value: float) -> bytes: ...
def msgpack_int(value: int) -> bytes: ...
def compatible_points(
    prefix: bytes, columns: Columns, highest: int | None = None
) -> list[tuple[bytes, bytes | None]]:
    """The compatible layout: prefix = pack of (run,"seqs",ctx,name) with its directory; the pairs to set for "epoch"
    of each point in order, then "step", "time", "val": ascending keys when the steps ascend. Value None: clear (the
    epoch of a point that has none; left out for a step above `highest`, the highest one that was ever written)."""

def compatible_object(
    prefix: bytes, step: int, epoch: int | float | None, time: float, value: bytes
) -> list[tuple[bytes, bytes | None]]:
    """The same four pairs for a log line, a log record or an object: `value` is packed already."""

# --- chunks: the packed layout -----------------------------------------------------------------

CHUNK_POINTS: int  # 1,024

def encode_chunk(
    columns: Columns,
    begin: int = 0,
    end: int | None = None,
    *,
    level: int = 0,
    ordered: bool = False,
    before: int = 0,
) -> bytes:
    """The points begin ... end - 1 as one chunk. level (0 ... 3), ordered and before go into its head."""

def chunk_head(chunk: bytes) -> tuple[int, bool, int, int]:
    """(level, ordered, count, before) of a chunk. Raises ValueError on bytes that start none."""

def decode_chunk(chunk: bytes, into: Columns) -> None:
    """Appends the points of a chunk to `into`. Raises ValueError, and appends nothing, on bytes that are no chunk."""

# --- rows as a reader meets them --------------------------------------------------------------

def read_tree(
    pairs: Iterable[tuple[bytes, bytes]],
    start: int,
    most_depth: int,
    other: Callable[[bytes], object],
    missing: object,
) -> object:
    """The nested value of a tree's rows, whose paths stand behind `start` in their keys; `missing` where there is none. A row that is
    none of a tree's, or deeper than `most_depth`, is skipped. other: reads a value that is no plain scalar."""

def read_traces(
    pairs: Iterable[tuple[bytes, bytes]], start: int, other: Callable[[bytes], object]
) -> Iterator[tuple[tuple[int, str], dict[str, Any]]]:
    """The fields of each (context id, name) in rows whose keys are (context id, name, field) behind `start`; others are skipped."""

def read_values(
    pairs: Iterator[tuple[bytes, bytes]],
    start: int,
    into: Columns,
    most: int,
    other: Callable[[bytes], object],
) -> bool:
    """Appends the number in each row whose key is a step behind `start`, until there are `most` points; returns whether it ended so. Other
    rows are skipped; the points have neither time nor epoch."""

# --- the read API ------------------------------------------------------------------------------

def tree_records(name: str | int | None, value: object) -> bytes:
    """A tree as records of the read API's stream: u32LE length, path, u32LE length, type and value. `name` is the first
    element of each path (None: the tree's own names are). `value`: None, bool, int, float, str, bytes, dict, list, tuple.

    An integer beyond 32 bits goes as a float where that is exact, else as a text, and an empty name as "(empty)": the web app's
    decoder takes no others. Raises TypeError on other types, ValueError on nesting beyond 128."""

# --- WebSocket ---------------------------------------------------------------------------------

def text_message(data: bytes) -> bytes | None:
    """The payload when `data` is exactly one whole text message of a client: a final, masked frame of less than
    64 KiB without reserved bits (RFC 6455, section 5.2). None: anything else, a violation too."""

def unmask(data: bytes, begin: int, size: int, mask: bytes, turn: int) -> bytes:
    """`size` bytes of `data` from `begin` on without their mask (section 5.3), whose first byte here is number
    `turn` modulo 4. Raises ValueError when there are not so many, or the mask has not 4 bytes."""

# --- Kafka -------------------------------------------------------------------------------------

def murmur2(key: bytes) -> int:
    """The hash (32 bits, unsigned) by which Kafka's Java client, and librdkafka's murmur2_random, find a key's partition:
    `(murmur2(key) & 0x7fffffff) % partitions`."""
