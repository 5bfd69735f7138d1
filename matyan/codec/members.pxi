# Members: the values of the known members of a JSON object, each in its slot. Which members are known stands in
# schema.pxi; what they must be, in messages.pxi and records.pxi.
#
# Producers send many objects that look alike. So each name is first compared with the name that stood in this place in the
# object before, and the first members (type, run id, timestamp) are compared as one piece of text, their head. Where a
# guess is wrong, the name is looked up; nothing else depends on it.
cdef struct Members:
    Value slot[FIELD_ROOM + 1]  # of each field; what is unknown lands in the last
    uint64_t present           # bit n: slot n is not ABSENT
    uint8_t flaw               # of any value, known or not
    int order[ORDER_ROOM]      # the fields as they stood in the object before
    int alike                  # how many members the head has
    Span head                  # the text of the last object up to its member number `alike`, or empty;
                               # whoever scans keeps the bytes of that object alive
    Value head_slot[HEAD_ROOM]
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
    span_clear(&m.head)
    m.inner = inner


cdef int look_up(const Value *key) noexcept nogil:
    """The field that a key names, or FIELD_ROOM."""
    cdef int i
    for i in range(field_count):
        if is_named(key, &field_table[i].quoted):
            return i
    return FIELD_ROOM


cdef inline void forget(Members *m, uint64_t keep) noexcept nogil:
    """Makes the slots ABSENT that the object before has filled, but for those in `keep`."""
    cdef uint64_t stale = m.present & ~keep
    cdef int field = 0
    m.present = keep
    while stale:
        if stale & 1:
            m.slot[field].shape = ABSENT
        stale >>= 1
        field += 1


cdef inline void keep_head(Members *m, const Span *head) noexcept nogil:
    cdef int i
    m.head = head[0]
    for i in range(m.alike):
        if m.inner != NULL and m.order[i] == PAYLOAD:
            span_clear(&m.head)  # the payload also fills the slots of `inner`, which are not kept here
        m.head_field[i] = m.order[i]
        m.head_slot[i] = m.slot[m.order[i]]


cdef inline int take_head(Scanner *scanner, Members *m, uint64_t *seen) noexcept nogil:
    """Takes the first members when their text is that of the last head. Returns how many were taken."""
    cdef Cursor here = scanner.text
    cdef Value *value
    cdef int i
    if span_size(&m.head) == 0 or not take_same(&scanner.text, &m.head):
        return 0
    for i in range(m.alike):
        value = &m.slot[m.head_field[i]]
        value[0] = m.head_slot[i]
        value.text = span_moved(&m.head_slot[i].text, &m.head, &here)
        m.flaw |= value.flaw
        seen[0] |= <uint64_t>1 << m.head_field[i]
    m.present |= seen[0]
    skip_space(&scanner.text)
    return m.alike


cdef inline int scan_name(Scanner *scanner, int *expected) noexcept nogil:
    """At a member's name: returns its field, mostly the `expected` one, and expects it from now on; -1 when it is no name.
    Leaves the cursor at the value."""
    cdef const Field *field = &field_table[expected[0]]
    cdef Value key
    if take_masked(&scanner.text, field.word, field.mask, field.length):
        skip_space(&scanner.text)
        return expected[0]
    key.flaw = SOUND
    key.escaped = 0
    if scan_key(scanner, &key) < 0:
        return -1
    expected[0] = look_up(&key)
    return expected[0]


cdef int scan_members(Scanner *scanner, Members *m) noexcept nogil:
    """At `{`: fills the slot of each known field, the last of equal names; -1 when it is no JSON."""
    cdef Cursor *c = &scanner.text
    cdef Value *value
    cdef Span head
    cdef uint64_t seen = 0
    cdef int field, i, following
    m.flaw = SOUND
    span_begin(&head, c)
    i = take_head(scanner, m, &seen)
    if i == 0:
        advance(c, 1)
        skip_space(c)
        if take_byte(c, c'}'):
            forget(m, 0)
            return 0
    while True:
        field = scan_name(scanner, &m.order[i])
        if field < 0:
            return -1
        seen |= <uint64_t>1 << field
        m.present |= seen
        value = &m.slot[field]
        if field == PAYLOAD and m.inner != NULL and peek(c) == c'{':
            span_begin(&value.text, c)
            value.shape = OBJECT
            value.flaw = SOUND
            if scan_members(scanner, m.inner) < 0:
                return -1
            span_end(&value.text, c)
        elif scan_value(scanner, value) < 0:
            return -1
        m.flaw |= value.flaw
        skip_space(c)
        following = next_byte(c)
        if following == c'}':
            forget(m, seen)
            return 0
        if following != c',':
            return fail_list(scanner, following)
        skip_space(c)
        if i < ORDER_ROOM - 1:
            i += 1
        if i == m.alike:
            span_end(&head, c)
            keep_head(m, &head)
