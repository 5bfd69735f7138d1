# Broker records -> what a worker applies: points by their sequence, any other record by itself. Reads what `validate`
# writes (messages.pxi) and what the reference's frontier and API server write: another order of members, null for NaN,
# any ISO 8601 time. What a record does to the store is the affair of rules/.

import hashlib as _hashlib

MAX_CACHED_CONTEXTS = 4_096


def context_text(context):
    if not context:
        return "{}"
    return _json.dumps(context, sort_keys=True, separators=(",", ":"))


def context_id(context):
    if not context:
        return 0
    return int.from_bytes(_hashlib.sha256(context_text(context).encode()).digest()[:4], "big")


cdef dict contexts_read = {}  # JSON as it was spelled -> (canonical text, id), cleared when it is full


cdef tuple read_context(bytes spelled):
    cdef tuple found = contexts_read.get(spelled)
    if found is None:
        context = _json.loads(spelled)
        found = context_text(context), context_id(context)
        if len(spelled) <= 1_024:
            if len(contexts_read) >= MAX_CACHED_CONTEXTS:
                contexts_read.clear()
            contexts_read[spelled] = found
    return found


cdef class MetricPoints:
    cdef readonly str run
    cdef readonly str name
    cdef readonly object ctx
    cdef readonly bytes context
    cdef readonly str context_text
    cdef readonly str dtype
    cdef readonly Columns columns
    cdef readonly Py_ssize_t first
    cdef readonly double timestamp
    cdef readonly double last_timestamp
    cdef bint closed        # another record of the run has come
    cdef bytes dtype_text   # as it stands in the record


cdef class Record:
    cdef readonly Py_ssize_t index
    cdef readonly str kind
    cdef readonly str run
    cdef readonly double timestamp
    cdef readonly dict payload


cdef class Malformed:
    cdef readonly Py_ssize_t index
    cdef readonly str reason


cdef class OpenRun:
    """One run in a batch, and its groups that are open."""
    cdef str run
    cdef dict open  # (name, context's text) -> MetricPoints


# The group of a record, found by the bytes of its name and context, so that these need not become Python objects for
# each record. There are CACHED_GROUPS slots; the next sequence with the same hash takes the slot over.
cdef struct CachedGroup:
    Span name
    Span context
    void *run      # the BatchDecoder's `runs` keeps it alive
    void *points   # the BatchDecoder's `out` keeps it alive

cdef enum:
    CACHED_GROUPS = 256


cdef inline uint64_t text_hash(const Span *s) noexcept nogil:
    """Of the length and the last eight bytes: names differ at their ends."""
    return (last_word(s) ^ <uint64_t>span_size(s)) * <uint64_t>0x9E3779B97F4A7C15


cdef class BatchDecoder:
    cdef object values  # keeps the bytes of every span alive
    cdef list out
    cdef dict runs      # run id -> OpenRun
    cdef OpenRun run    # the run of the last record,
    cdef Span run_text  # and its id as that record spells it
    cdef Scanner scanner
    cdef Minute minute
    cdef Members envelope
    cdef Members payload
    cdef CachedGroup groups[CACHED_GROUPS]

    def __cinit__(self, values):
        self.values = values
        self.out = []
        self.runs = {}
        minute_open(&self.minute)
        members_open(&self.payload, 0, NULL)
        members_open(&self.envelope, 3, &self.payload)  # type, run id and timestamp
        scanner_open(&self.scanner)
        memset(self.groups, 0, sizeof(self.groups))

    def __dealloc__(self):
        scanner_close(&self.scanner)

    cdef int find_run(self, const Value *id) except -1:
        if self.run is not None and same_text(&id.text, &self.run_text):
            return 0
        name = text_of(id)
        self.run = self.runs.get(name)
        if self.run is None:
            self.run = OpenRun.__new__(OpenRun)
            self.run.run = name
            self.run.open = {}
            self.runs[name] = self.run
        self.run_text = id.text
        return 0

    cdef str read(self, Py_ssize_t index, bytes value):
        """Appends what the record holds and returns None, or returns why it is none."""
        cdef Cursor *c = &self.scanner.text
        cdef Value *e = self.envelope.slot
        cdef int64_t micros
        cursor_open(c, value)
        skip_space(c)
        if peek(c) != c'{':
            return "not a JSON object"
        if scan_members(&self.scanner, &self.envelope) < 0:
            return f"not JSON: {self.scanner.error.decode()} at byte {position(c)}"
        skip_space(c)
        if left(c):
            return "not JSON: unexpected text behind the end"
        if e[TYPE].shape != STRING or e[TYPE].flaw:
            return "type: expected a string"
        if e[RUN_ID].shape != STRING or e[RUN_ID].flaw:
            return "run_id: expected a string"
        if not time_of(&e[TIMESTAMP], &self.minute, &micros):
            return "timestamp: expected an ISO 8601 date and time"
        if e[PAYLOAD].shape != OBJECT:
            return "payload: expected an object"
        self.find_run(&e[RUN_ID])
        if span_is(&e[TYPE].text, b'"log_metric"', 12):
            return self.point(index, <double>micros / 1e6)
        return self.record(index, <double>micros / 1e6)

    cdef str record(self, Py_ssize_t index, double timestamp):
        cdef Record record
        cdef MetricPoints points
        if self.payload.flaw:
            return "payload: " + FLAWS[self.payload.flaw]
        record = Record.__new__(Record)
        record.index = index
        record.kind = text_of(&self.envelope.slot[TYPE])
        record.run = self.run.run
        record.timestamp = timestamp
        record.payload = loads(&self.envelope.slot[PAYLOAD])
        for points in self.run.open.values():
            points.closed = True
        self.run.open.clear()
        self.out.append(record)
        return None

    cdef str point(self, Py_ssize_t index, double timestamp):
        cdef Value *p = self.payload.slot
        cdef Value *dtype = &p[DTYPE]
        cdef int64_t step = 0, epoch = 0, micros
        cdef uint8_t flags = 0, mark
        cdef double value, time = timestamp
        cdef MetricPoints points
        if p[NAME].shape != STRING or p[NAME].flaw:
            return "name: expected a string"
        if NULL_ < p[VALUE].shape <= SPECIAL:
            value = float_of(&p[VALUE])
        elif p[VALUE].shape == NULL_:
            value = NAN  # so the reference writes NaN and infinities
        else:
            return "value: expected a number or null"
        if p[STEP].shape > NULL_:
            if int64_of(&p[STEP], &step) != 1:
                return "step: expected an integer in int64 or null"
            flags |= HAS_STEP
        if p[EPOCH].shape > NULL_:
            if epoch_of(&p[EPOCH], &epoch, &mark) != 1:
                return "epoch: expected an integer in int64, a finite number with a fraction, or null"
            flags |= mark
        if p[CONTEXT].shape > NULL_ and (p[CONTEXT].shape != OBJECT or p[CONTEXT].flaw):
            return "context: expected an object or null"
        if dtype.shape > NULL_ and (dtype.shape != STRING or dtype.flaw):
            return "dtype: expected a string or null"
        if p[CLIENT_DATETIME].shape > NULL_:
            if not time_of(&p[CLIENT_DATETIME], &self.minute, &micros):
                return "client_datetime: expected an ISO 8601 date and time or null"
            time = <double>micros / 1e6
        points = self.group(index, timestamp)
        points.columns.push(step, value, time, epoch, flags)
        points.last_timestamp = timestamp
        if dtype.shape != STRING:
            points.dtype = "float"
            points.dtype_text = b""
        elif not span_is(&dtype.text, PyBytes_AS_STRING(points.dtype_text), PyBytes_GET_SIZE(points.dtype_text)):
            points.dtype = text_of(dtype)
            points.dtype_text = span_bytes(&dtype.text)
        return None

    cdef MetricPoints group(self, Py_ssize_t index, double timestamp):
        """The open group of the record's sequence."""
        cdef Span *name = &self.payload.slot[NAME].text
        cdef Span *context = &self.payload.slot[CONTEXT].text
        cdef CachedGroup *cached
        cdef MetricPoints points
        if self.payload.slot[CONTEXT].shape != OBJECT or self.payload.slot[CONTEXT].empty:
            span_clear(context)
        cached = &self.groups[(text_hash(name) + 3 * text_hash(context)) >> 56]
        if (cached.run == <void *>self.run and same_text(name, &cached.name)
                and same_text(context, &cached.context)):
            points = <MetricPoints>cached.points
            if not points.closed:
                return points
        points = self.find_group(index, timestamp)
        cached.name = name[0]
        cached.context = context[0]
        cached.run = <void *>self.run
        cached.points = <void *>points
        return points

    cdef MetricPoints find_group(self, Py_ssize_t index, double timestamp):
        """The same by meaning, whatever the spelling; a new group when none is open."""
        cdef bytes context = span_bytes(&self.payload.slot[CONTEXT].text) or b"{}"
        cdef MetricPoints points
        name = text_of(&self.payload.slot[NAME])
        text, ctx = read_context(context)
        points = self.run.open.get((name, text))
        if points is None:
            points = MetricPoints.__new__(MetricPoints)
            points.run = self.run.run
            points.name = name
            points.ctx = ctx
            points.context = context
            points.context_text = text
            points.columns = Columns()
            points.dtype_text = b""
            points.first = index
            points.timestamp = timestamp
            self.run.open[name, text] = points
            self.out.append(points)
        return points


def decode_records(values):
    cdef BatchDecoder reader = BatchDecoder(list(values))
    cdef Malformed malformed
    cdef Py_ssize_t index = 0
    cdef str reason
    cdef bytes value
    for value in reader.values:
        reason = reader.read(index, value)
        if reason is not None:
            malformed = Malformed.__new__(Malformed)
            malformed.index = index
            malformed.reason = reason
            reader.out.append(malformed)
        index += 1
    return reader.out


# What a record costs a transaction beside its kind's own work, in about microseconds.
cdef enum:
    RECORD_WORK_US = 50
    DELETION_WORK_US = 10_000
    KIND_WITHIN_BYTES = 160  # bytes from a record's beginning in which its kind stands, whatever the members' order


cdef Py_ssize_t work_of(bytes record, Py_ssize_t point_work) noexcept:
    """An estimate: the kind is what is quoted near the beginning, wherever that stands."""
    cdef Cursor c
    cdef Py_ssize_t size = PyBytes_GET_SIZE(record)
    cursor_over(&c, PyBytes_AS_STRING(record), min(size, KIND_WITHIN_BYTES))
    while left(&c) > 13:
        if peek(&c) != c'"':
            advance(&c, 1)
            continue
        if stands_here(&c, b'"log_metric"', 12):
            return point_work
        if stands_here(&c, b'"log_hparams"', 13):
            return RECORD_WORK_US + size  # a key of its own for each 20 bytes and more
        if stands_here(&c, b'"delete_run"', 12):
            return DELETION_WORK_US  # a guess: what it clears is in the store
        advance(&c, 1)
    return RECORD_WORK_US + size // 32


def total_bytes(values):
    cdef Py_ssize_t total = 0
    cdef bytes value
    for value in values:
        total += PyBytes_GET_SIZE(value)
    return total


def cut_records(values, Py_ssize_t most_bytes, Py_ssize_t most_records, Py_ssize_t most_work, Py_ssize_t point_work):
    cdef list ends = []
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t begin = 0
    cdef Py_ssize_t bytes_ = 0
    cdef Py_ssize_t work = 0
    cdef Py_ssize_t size
    cdef Py_ssize_t more
    cdef bytes value
    for value in values:
        size = PyBytes_GET_SIZE(value)
        more = work_of(value, point_work)
        if i > begin and (
            size > most_bytes - bytes_ or i - begin >= most_records or more > most_work - work
        ):
            ends.append(i)
            begin = i
            bytes_ = work = 0
        bytes_ += size
        work += more
        i += 1
    if i or not ends:
        ends.append(i)
    return ends
