# Broker records -> what a worker applies. Reads what `validate` writes and what the reference's
# frontier and API server write (other order of members, null for NaN, any ISO 8601 time).

import hashlib as _hashlib

MAX_CACHED_CONTEXTS = 4_096


def context_id(context):
    if not context:
        return 0
    text = _json.dumps(context, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(_hashlib.sha256(text.encode()).digest()[:4], "big")


cdef dict context_ids = {}  # JSON text -> id, cleared when it is full


cdef object context_id_of(bytes text):
    found = context_ids.get(text)
    if found is None:
        found = context_id(_json.loads(text))
        if len(text) <= 1_024:
            if len(context_ids) >= MAX_CACHED_CONTEXTS:
                context_ids.clear()
            context_ids[text] = found
    return found


cdef class Points:
    cdef readonly str run
    cdef readonly str name
    cdef readonly object ctx
    cdef readonly bytes context
    cdef readonly str dtype
    cdef readonly Columns columns
    cdef readonly Py_ssize_t first
    cdef readonly double timestamp
    cdef readonly double last_timestamp
    cdef bytes raw_dtype


cdef class Record:
    cdef readonly Py_ssize_t index
    cdef readonly str kind
    cdef readonly str run
    cdef readonly double timestamp
    cdef readonly dict payload


cdef class Malformed:
    cdef readonly Py_ssize_t index
    cdef readonly str reason


cdef class Run:
    """One run's open groups while a batch is read."""
    cdef str run
    cdef dict by_text      # name and context as they stand in the record -> Points
    cdef dict by_sequence  # (name, ctx) -> Points


cdef class Reader:
    cdef list out
    cdef dict runs
    cdef Order envelope_order
    cdef Order payload_order
    cdef Scanner scanner
    cdef Span envelope[FIELD_ROOM]
    cdef Span payload[FIELD_ROOM]

    def __cinit__(self):
        cdef int i
        self.out = []
        self.runs = {}
        for i in range(ORDER_ROOM):
            self.envelope_order.field[i] = self.payload_order.field[i] = FIELD_ROOM
        scanner_open(&self.scanner)

    def __dealloc__(self):
        scanner_close(&self.scanner)

    cdef Run run_of(self, const Span *s):
        cdef bytes text = s.start[: s.stop - s.start]
        cdef Run run = self.runs.get(text)
        cdef str name
        if run is None:
            name = text_of(s)
            run = self.runs.get(name)
            if run is None:
                run = Run.__new__(Run)
                run.run = name
                run.by_text = {}
                run.by_sequence = {}
                self.runs[name] = run
            self.runs[text] = run
        return run

    cdef str read(self, Py_ssize_t index, bytes value):
        """Appends what the record holds and returns None, or returns why it is none."""
        cdef Scanner *c = &self.scanner
        cdef Span *e = self.envelope
        cdef int64_t micros
        cdef Span *s
        cdef Record record
        cdef double timestamp
        cdef Run run
        scanner_at(c, <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        c.max_depth = 65  # the payload itself is one level
        skip_space(c)
        if c.p == c.end or c.p[0] != c'{':
            return "no JSON object"
        if scan_members(c, e, &self.envelope_order) < 0:
            return f"no JSON: {c.error.decode()} at byte {c.p - c.begin}"
        skip_space(c)
        if c.p != c.end:
            return "unexpected text behind the record's end"
        if e[TYPE].shape != STRING or e[TYPE].flaw:
            return "type: expected a string"
        if e[RUN_ID].shape != STRING or e[RUN_ID].flaw:
            return "run_id: expected a string"
        s = &e[TIMESTAMP]
        if s.shape != STRING or not scan_time(s.start + 1, s.stop - 1, &micros):
            return "timestamp: expected an ISO 8601 date and time"
        if e[PAYLOAD].shape != OBJECT:
            return "payload: expected an object"
        if e[PAYLOAD].flaw:
            return "payload: " + FLAWS[e[PAYLOAD].flaw]
        timestamp = <double>micros / 1e6
        run = self.run_of(&e[RUN_ID])
        if (e[TYPE].stop - e[TYPE].start == 12
                and memcmp(e[TYPE].start, b'"log_metric"', 12) == 0):
            return self.point(index, run, timestamp)
        record = Record.__new__(Record)
        record.index = index
        record.kind = text_of(&e[TYPE])
        record.run = run.run
        record.timestamp = timestamp
        record.payload = loads(&e[PAYLOAD])
        run.by_text.clear()
        run.by_sequence.clear()
        self.out.append(record)
        return None

    cdef str point(self, Py_ssize_t index, Run run, double timestamp):
        cdef Scanner *c = &self.scanner
        cdef Span *p = self.payload
        cdef Span *s
        cdef int64_t step = 0, epoch = 0, micros
        cdef uint8_t flags = 0
        cdef double value, time = timestamp
        cdef Points points
        cdef bytes text
        scanner_at(c, self.envelope[PAYLOAD].start, self.envelope[PAYLOAD].stop - self.envelope[PAYLOAD].start)
        c.max_depth = 64
        if scan_members(c, p, &self.payload_order) < 0:
            return "payload: no JSON"
        if p[NAME].shape != STRING:
            return "name: expected a string"
        s = &p[VALUE]
        if NULL_ < s.shape <= SPECIAL:
            value = float_of(s)
        elif s.shape == NULL_:
            value = float("nan")  # so the reference writes NaN and infinities
        else:
            return "value: expected a number or null"
        if p[STEP].shape > NULL_:
            if int64_of(&p[STEP], &step) != 1:
                return "step: expected an integer in int64 or null"
            flags |= HAS_STEP
        if p[EPOCH].shape > NULL_:
            if int64_of(&p[EPOCH], &epoch) != 1:
                return "epoch: expected an integer in int64 or null"
            flags |= HAS_EPOCH
        if p[CONTEXT].shape > NULL_ and p[CONTEXT].shape != OBJECT:
            return "context: expected an object or null"
        if p[DTYPE].shape > NULL_ and p[DTYPE].shape != STRING:
            return "dtype: expected a string or null"
        s = &p[CLIENT_DATETIME]
        if s.shape > NULL_:
            if s.shape != STRING or not scan_time(s.start + 1, s.stop - 1, &micros):
                return "client_datetime: expected an ISO 8601 date and time or null"
            time = <double>micros / 1e6
        text = p[NAME].start[: p[NAME].stop - p[NAME].start]
        if p[CONTEXT].shape == OBJECT and not p[CONTEXT].empty:
            text += p[CONTEXT].start[: p[CONTEXT].stop - p[CONTEXT].start]
        points = run.by_text.get(text)
        if points is None:
            points = self.group(index, run, timestamp)
            run.by_text[text] = points
        points.columns.push(step, value, time, epoch, flags)
        points.last_timestamp = timestamp
        self.set_dtype(points)
        return None

    cdef int set_dtype(self, Points points) except -1:
        cdef Span *s = &self.payload[DTYPE]
        cdef Py_ssize_t size = s.stop - s.start
        if s.shape != STRING:
            if points.raw_dtype is not None or points.dtype is None:
                points.dtype = "float"
                points.raw_dtype = None
        elif (points.raw_dtype is None or len(points.raw_dtype) != size
                or memcmp(PyBytes_AS_STRING(points.raw_dtype), s.start, size) != 0):
            points.raw_dtype = s.start[:size]
            points.dtype = text_of(s)
        return 0

    cdef Points group(self, Py_ssize_t index, Run run, double timestamp):
        """The open group of this record's sequence, perhaps under another spelling, or a new one."""
        cdef Span *p = self.payload
        cdef bytes context = b"{}"
        cdef Points points
        if p[CONTEXT].shape == OBJECT and not p[CONTEXT].empty:
            context = p[CONTEXT].start[: p[CONTEXT].stop - p[CONTEXT].start]
        name = text_of(&p[NAME])
        ctx = context_id_of(context)
        points = run.by_sequence.get((name, ctx))
        if points is None:
            points = Points.__new__(Points)
            points.run = run.run
            points.name = name
            points.ctx = ctx
            points.context = context
            points.columns = Columns()
            points.first = index
            points.timestamp = timestamp
            run.by_sequence[(name, ctx)] = points
            self.out.append(points)
        return points


def decode_records(values):
    cdef Reader reader = Reader()
    cdef Malformed malformed
    cdef Py_ssize_t index = 0
    cdef str reason
    cdef bytes value
    for value in values:
        reason = reader.read(index, value)
        if reason is not None:
            malformed = Malformed.__new__(Malformed)
            malformed.index = index
            malformed.reason = reason
            reader.out.append(malformed)
        index += 1
    return reader.out
