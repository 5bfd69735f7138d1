# Members: the known members of one JSON object after the other, each in a slot of its own.
# Which ones are known stands in schema.pxi; what they must be, in messages.pxi and records.pxi.

# One kind of object after the other, read from one buffer. Producers repeat themselves: a member's name
# mostly stands where it stood in the object before, so it costs one comparison, and the first members
# (type, run id, timestamp) often are the same bytes altogether. A wrong guess costs a look-up, nothing else.
cdef struct Members:
    Span slot[FIELD_ROOM + 1]  # of each field; what is unknown lands in the last
    uint64_t present           # bit n: slot n is not ABSENT
    uint8_t flaw               # of any value, known or not
    int order[ORDER_ROOM]      # the fields as they stood in the object before
    int alike                  # how many members the head has
    const uint8_t *head        # the last object's begin, up to its member number `alike`;
    Py_ssize_t head_size       # whoever scans keeps that object's bytes alive
    Span head_slot[HEAD_ROOM]
    int head_field[HEAD_ROOM]
    Members *inner             # what reads the object `payload`, or NULL


cdef void members_open(Members *m, int alike, Members *inner) noexcept:
    cdef int i
    for i in range(ORDER_ROOM):
        m.order[i] = FIELD_ROOM
    for i in range(FIELD_ROOM):
        m.slot[i].shape = ABSENT
    m.present = 0
    m.alike = alike
    m.head_size = 0
    m.inner = inner


cdef inline bint take_field(Scanner *c, const Field *field) noexcept nogil:
    """Advances over the field's name and colon when they stand here."""
    if c.end - c.p < 24 or (
        ((word_at(c.p) ^ field.word[0]) & field.mask[0])
        | ((word_at(c.p + 8) ^ field.word[1]) & field.mask[1])
        | ((word_at(c.p + 16) ^ field.word[2]) & field.mask[2])
    ):
        return False
    c.p += field.name.size
    return True


cdef int look_up(const Span *key) noexcept nogil:
    """The field that a key names, or FIELD_ROOM."""
    cdef Py_ssize_t size = key.stop - key.start
    cdef const Text *name
    cdef int i
    for i in range(field_count):
        name = &field_table[i].name
        if key.escaped:
            if spells(key, <const char *>name.data + 1, name.size - 3):
                return i
        elif name.size == size + 1 and memcmp(name.data, key.start, size) == 0:
            return i
    return FIELD_ROOM


cdef inline void forget(Members *m, uint64_t keep) noexcept nogil:
    """The slots that the object before had filled are ABSENT again."""
    cdef uint64_t stale = m.present & ~keep
    cdef int field = 0
    m.present = keep
    while stale:
        if stale & 1:
            m.slot[field].shape = ABSENT
        stale >>= 1
        field += 1


cdef inline int keep_head(Members *m, const uint8_t *start, Py_ssize_t size) noexcept nogil:
    cdef int i
    m.head = start
    m.head_size = size
    for i in range(m.alike):
        if m.inner != NULL and m.order[i] == PAYLOAD:
            m.head_size = 0  # it is more than its span
        m.head_field[i] = m.order[i]
        m.head_slot[i] = m.slot[m.order[i]]
    return 0


cdef inline int take_head(Scanner *c, Members *m, uint64_t *seen) noexcept nogil:
    """Fills the slots of the first members when they are the bytes that the last head had."""
    cdef Span *s
    cdef int i
    if m.head_size == 0 or c.end - c.p < m.head_size or memcmp(c.p, m.head, m.head_size) != 0:
        return 0
    for i in range(m.alike):
        s = &m.slot[m.head_field[i]]
        s[0] = m.head_slot[i]
        s.start = c.p + (s.start - m.head)
        s.stop = c.p + (s.stop - m.head)
        m.flaw |= s.flaw
        seen[0] |= <uint64_t>1 << m.head_field[i]
    m.present |= seen[0]
    c.p += m.head_size
    skip_space(c)
    return m.alike


cdef int scan_members(Scanner *c, Members *m) except -2 nogil:
    """At `{`: fills the slot of each known field, the last of equal names; -1 when it is no JSON."""
    cdef Span key
    cdef Span *s
    cdef const uint8_t *start = c.p
    cdef uint64_t seen = 0
    cdef int field, i
    m.flaw = SOUND
    i = take_head(c, m, &seen)
    if i == 0:
        c.p += 1
        skip_space(c)
        if c.p < c.end and c.p[0] == c'}':
            c.p += 1
            forget(m, 0)
            return 0
    while True:
        field = m.order[i]
        if take_field(c, &field_table[field]):
            skip_space(c)
        else:
            key.flaw = SOUND
            key.escaped = 0
            if scan_key(c, &key) < 0:
                return -1
            field = m.order[i] = look_up(&key)
        seen |= <uint64_t>1 << field
        m.present |= seen
        s = &m.slot[field]
        if field == PAYLOAD and m.inner != NULL and c.p < c.end and c.p[0] == c'{':
            s.start = c.p
            s.shape = OBJECT
            s.flaw = SOUND
            if scan_members(c, m.inner) < 0:
                return -1
            s.stop = c.p
        elif scan_value(c, s) < 0:
            return -1
        m.flaw |= s.flaw
        skip_space(c)
        if c.p == c.end:
            return fail(c, "the text ends early")
        if c.p[0] == c',':
            c.p += 1
            skip_space(c)
        elif c.p[0] == c'}':
            c.p += 1
            forget(m, seen)
            return 0
        else:
            return fail(c, "expected a comma or the closing bracket")
        if i < ORDER_ROOM - 1:
            i += 1
        if i == m.alike:
            keep_head(m, start, c.p - start)
