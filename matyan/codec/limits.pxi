# Which free values of a message cannot be stored: those whose key or value would be too large, or that use a name which
# the store keeps for itself (contract, sections 4 and 6). Only sizes and names are judged here. What is stored where is
# the affair of keys.py, trees.py and indexes.py; this file counts the bytes that they write.

cdef enum:
    # A directory's prefix has one byte in RocksDB; FoundationDB's allocator gives two or three.
    DIRECTORY_BYTES = 3
    # Of a large object in parts, a reader that knows no parts sees a small one. This is its size without the type.
    STUB_BYTES = 25

RESERVED = frozenset((LEAF, EMPTY_DICT, EMPTY_LIST))
RESERVED_AT_THE_TOP = RESERVED | {BLOBS}

cdef Text type_quoted
cdef Text leaf_quoted
cdef Text blobs_quoted
cdef Text empty_dict_quoted
cdef Text empty_list_quoted
set_text(&type_quoted, '"type"')
set_text(&leaf_quoted, f'"{LEAF}"')
set_text(&blobs_quoted, f'"{BLOBS}"')
set_text(&empty_dict_quoted, f'"{EMPTY_DICT}"')
set_text(&empty_list_quoted, f'"{EMPTY_LIST}"')


cdef Py_ssize_t packed_most(const Value *value) noexcept:
    """A number of bytes that msgpack does not exceed for a value. It is counted by tokens, without making objects."""
    cdef Scanner scanner
    cdef Cursor *c = &scanner.text
    cdef Value token
    cdef Py_ssize_t size
    cdef Py_ssize_t total = 0
    cdef int ch
    cursor_in(c, &value.text)  # scanned before: it is JSON
    while left(c):
        ch = peek(c)
        if is_container(ch):
            total += 5
            advance(c, 1)
        elif ch <= c' ' or ch == c',' or ch == c':' or ch == c'}' or ch == c']':
            advance(c, 1)
        else:
            token.flaw = token.escaped = 0
            scan_scalar(&scanner, &token)
            size = span_size(&token.text)
            if token.shape == STRING:
                total += size + 3
            elif token.shape == INTEGER:
                total += 2 if size <= 2 else 3 if size <= 4 else 5 if size <= 9 else 9
            else:
                total += 9 if token.shape >= FLOAT else 1
    return total


cdef Py_ssize_t packed_size(const Value *value, Py_ssize_t limit) except -1:
    """How many bytes msgpack makes of a value: exact when that may be over the limit, otherwise at least not too few."""
    cdef Py_ssize_t most = packed_most(value)
    return most if most <= limit else len(msgpack_value(loads(value)))


cdef str too_large(str what, Py_ssize_t size):
    return f"{what}: {size:,} bytes as stored; the limit is {MAX_VALUE_BYTES:,}"


cdef str object_flaw(const Value *value):
    """What is wrong with a custom object. A large one is stored in parts, but its type in one value, in front of them."""
    cdef Scanner scanner
    cdef Cursor *c = &scanner.text
    cdef Value key, member, type_
    cdef Py_ssize_t size
    if 3 * span_size(&value.text) <= MAX_VALUE_BYTES or value.empty:
        return None
    type_.shape = ABSENT
    scanner_open(&scanner)
    try:
        cursor_in(c, &value.text)
        while left(c) > 1:  # the text was scanned before: it is an object, of which the closing bracket comes last
            advance(c, 1)
            skip_space(c)
            key.escaped = key.flaw = 0
            scan_key(&scanner, &key)
            scan_value(&scanner, &member)
            skip_space(c)
            if is_named(&key, &type_quoted):
                type_ = member
    finally:
        scanner_close(&scanner)
    if type_.shape == ABSENT:
        return None
    size = packed_size(&type_, MAX_VALUE_BYTES - STUB_BYTES) + STUB_BYTES
    return too_large("value: type", size) if size > MAX_VALUE_BYTES else None


cdef inline bint may_be_reserved(const Value *name) noexcept:
    cdef int first = span_byte(&name.text, 1)
    return (first == c'_' or first == c'\\') and (
        is_named(name, &leaf_quoted) or is_named(name, &blobs_quoted)
        or is_named(name, &empty_dict_quoted) or is_named(name, &empty_list_quoted)
    )


cdef inline Py_ssize_t text_element(str text) except -1:
    """The bytes of a text in a key: its own, a code and a 00 at the end; a zero in it takes two."""
    cdef Cursor c
    cdef Py_ssize_t size
    cursor_open_text(&c, text)
    size = left(&c) + 2
    while skip_to(&c, 0):
        advance(&c, 1)
        size += 1
    return size


cdef inline Py_ssize_t index_element(object value) except -1:
    """The bytes of a scalar in a key."""
    if isinstance(value, str):
        return text_element(value)
    if isinstance(value, bool):
        return 1
    # An int of 2^64 - 1 has the longest form.
    return 9 if isinstance(value, float) else len(pack((value,)))


cdef inline Py_ssize_t leaf_most(Py_ssize_t key, Py_ssize_t size) noexcept:
    """The most bytes of the row of a scalar that takes `size` bytes as JSON, and whose path takes `key`."""
    return key + 10 + max(9, size + 3)


cdef inline Py_ssize_t index_most(Py_ssize_t name, Py_ssize_t size, Py_ssize_t run) noexcept:
    """The most bytes of its index row and its twin, which it has when it stands directly below `hparams`."""
    return 2 * (DIRECTORY_BYTES + 8 + name + max(10, size) + run) + 6 + run


cdef bint hparams_fit(const Value *value, Py_ssize_t run) noexcept:
    """True when a log_hparams holds no reserved name and nothing over its limit. False: perhaps it does; Hparams tells.
    It is judged by tokens, without making objects.

    A text has at least as many bytes in JSON, with its quotes, as in a key.
    """
    cdef Scanner scanner
    cdef Cursor *c = &scanner.text
    cdef Value token
    cdef Py_ssize_t base[MAX_DEPTH + 1]  # of the open containers: the bytes of a key up to there
    cdef uint8_t opening[MAX_DEPTH + 1]
    cdef Py_ssize_t key = DIRECTORY_BYTES + run + 7
    cdef Py_ssize_t size
    cdef Py_ssize_t name = 0
    cdef Py_ssize_t total = 0
    cdef int depth = 0
    cursor_in(c, &value.text)  # scanned before: it is JSON, and not too deep
    while True:
        if is_container(peek(c)):
            base[depth] = key
            opening[depth] = <uint8_t>next_byte(c)
            depth += 1
            skip_space(c)
            if peek(c) != closing(opening[depth - 1]):
                key = step_in(&scanner, key, opening[depth - 1], &name)
                if key < 0:
                    return False
                continue
            total += key + 17
        else:
            token.flaw = token.escaped = 0
            scan_scalar(&scanner, &token)
            skip_space(c)
            size = span_size(&token.text)
            if size > MAX_VALUE_BYTES - 3:
                return False
            total += leaf_most(key, size) + (index_most(name, size, run) if depth == 2 else 0)
        if key + 16 > MAX_KEY_BYTES or total > MAX_HPARAMS_BYTES:
            return False
        while take_byte(c, closing(opening[depth - 1])):
            depth -= 1
            if depth == 0:
                return True
            skip_space(c)
        advance(c, 1)
        skip_space(c)
        key = step_in(&scanner, base[depth - 1], opening[depth - 1], &name)
        if key < 0:
            return False


cdef inline Py_ssize_t step_in(Scanner *scanner, Py_ssize_t base, uint8_t opening, Py_ssize_t *name) noexcept:
    """At a member or an item: the most bytes that a key has up to it, or -1 when its name is a reserved one.
    Leaves the cursor at the value."""
    cdef Value key
    if opening == c'[':
        return base + 5
    key.flaw = key.escaped = 0
    scan_key(scanner, &key)
    if may_be_reserved(&key):
        return -1
    name[0] = span_size(&key.text)
    return base + name[0]


cdef str hparams_flaw(const Value *value, str run):
    """What is wrong with the names and sizes of a log_hparams."""
    if hparams_fit(value, text_element(run)):
        return None
    return Hparams(run).flaw(loads(value))


cdef class Hparams:
    """The rows that one log_hparams writes: a leaf each, and of a scalar below `hparams` an index row with its twin."""
    cdef Py_ssize_t run    # bytes of the run id in a key
    cdef Py_ssize_t total  # of the keys and values so far
    cdef list path         # where the fault is, the last name first

    def __cinit__(self, str run):
        self.run = text_element(run)
        self.total = 0
        self.path = []

    cdef str flaw(self, dict value):
        cdef str reason = None
        if value:
            reason = self.members(value, DIRECTORY_BYTES + self.run + text_element("attrs"), 0, False)
        if self.total > MAX_HPARAMS_BYTES:
            return (f"value: over {MAX_HPARAMS_BYTES:,} bytes as stored, with its keys and index rows; "
                    f"that is the limit of a log_hparams (4 MB)")
        if reason is None:
            return None
        path = ".".join(map(str, reversed(self.path)))[:100]
        return f"value: {path + ': ' if path else ''}{reason}"

    cdef str members(self, dict value, Py_ssize_t key, int depth, bint indexed):
        cdef str reason
        for name, child in value.items():
            if name in (RESERVED if depth else RESERVED_AT_THE_TOP):
                reason = f"the store keeps the name {name} for itself; choose another one"
            else:
                if indexed and isinstance(child, (str, int, float)):
                    self.index(name, child)
                reason = self.node(child, key + text_element(name), depth + 1, depth == 0 and name == "hparams")
            if reason is not None:
                self.path.append(name)
                return reason
        return None

    cdef str node(self, value, Py_ssize_t key, int depth, bint indexed):
        cdef Py_ssize_t size, i
        cdef str reason
        if isinstance(value, dict) and value:
            return self.members(value, key, depth, indexed)
        if isinstance(value, list) and value:
            for i in range(len(<list>value)):
                reason = self.node((<list>value)[i], key + 1 + bytes_of(i), depth + 1, False)
                if reason is not None:
                    self.path.append(i)
                    return reason
            return None
        if isinstance(value, (dict, list)):
            key += text_element(EMPTY_DICT)  # EMPTY_LIST is as long
            size = 1
        else:
            key += text_element(LEAF)
            size = len(msgpack_value(value))
        if key > MAX_KEY_BYTES:
            return f"a key takes {key:,} bytes with its path; the limit is {MAX_KEY_BYTES:,}"
        if size > MAX_VALUE_BYTES:
            return f"{size:,} bytes as stored; the limit is {MAX_VALUE_BYTES:,}"
        self.total += key + size
        return None if self.total <= MAX_HPARAMS_BYTES else "too many"

    cdef int index(self, str name, value) except -1:
        cdef Py_ssize_t forward = DIRECTORY_BYTES + text_element("hparam") + text_element(name) + index_element(value) + self.run
        cdef Py_ssize_t twin = forward + text_element("_rev") + self.run
        # A longer one is left out of the index.
        if twin <= MAX_KEY_BYTES + DIRECTORY_BYTES:
            self.total += forward + twin
        return 0
