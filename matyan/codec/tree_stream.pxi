# The stream of the read API: a tree as records of a path and a value, which the web app and the SDK's readers decode
# (u32LE length, path, u32LE length, value; no head and no end). Encoded only.

cdef enum:
    PATH_END = 0xFE  # ends each element of a path, and opens an integer one
    TYPE_NULL = 0
    TYPE_BOOL = 1
    TYPE_INT = 2
    TYPE_FLOAT = 3
    TYPE_TEXT = 4
    TYPE_BYTES = 5
    TYPE_LIST = 6
    TYPE_EMPTY = 7

cdef int64_t STREAM_INT_MAX = 0x7FFFFFFF
cdef int64_t EXACT_DOUBLE_MAX = 1 << 53
cdef str NAMELESS = "(empty)"  # the web app's decoder dies of a path element without a name


cdef inline void put_little_endian(uint8_t *p, uint64_t number, int n) noexcept:
    cdef int at
    for at in range(n):
        p[at] = <uint8_t>number
        number >>= 8


cdef int path_element(Buffer *path, element) except -1:
    cdef uint8_t *p
    cdef Py_ssize_t size
    cdef const char *text
    if isinstance(element, int) and not isinstance(element, bool) and 0 <= element <= STREAM_INT_MAX:
        p = buffer_take(path, 10)
        p[0] = PATH_END
        put_big_endian(p + 1, element, 8)
        p[9] = PATH_END
        return 0
    # Other integers decode wrongly in a browser.
    text = PyUnicode_AsUTF8AndSize(str(element) or NAMELESS, &size)
    buffer_bytes(path, text, size)
    return buffer_byte(path, PATH_END)


cdef uint8_t *tree_record(Buffer *b, Buffer *path, uint8_t code, Py_ssize_t size) except NULL:
    # A record whose value is `size` bytes behind the type: where they are to be written.
    cdef uint8_t *p
    if path.size > 0x7FFFFFFF or size >= 0x7FFFFFFF:
        raise ValueError("too long for a record of a stream")
    p = buffer_take(b, 9 + path.size + size)
    put_little_endian(p, path.size, 4)
    memcpy(p + 4, path.data, path.size)
    p += 4 + path.size
    put_little_endian(p, 1 + size, 4)
    p[4] = code
    return p + 5


cdef int tree_text(Buffer *b, Buffer *path, str text) except -1:
    cdef Py_ssize_t size
    cdef const char *data = PyUnicode_AsUTF8AndSize(text, &size)
    memcpy(tree_record(b, path, TYPE_TEXT, size), data, size)
    return 0


cdef int tree_int(Buffer *b, Buffer *path, number) except -1:
    # The web app's decoder takes what is beyond 32 bits apart wrongly: such a one goes as a float, or as a text.
    if -STREAM_INT_MAX - 1 <= number <= STREAM_INT_MAX:
        put_little_endian(tree_record(b, path, TYPE_INT, 8), <uint64_t><int64_t>number, 8)
    elif -EXACT_DOUBLE_MAX <= number <= EXACT_DOUBLE_MAX:
        put_little_endian(tree_record(b, path, TYPE_FLOAT, 8), bits_of(number), 8)
    else:
        tree_text(b, path, str(number))
    return 0


cdef str name_beside(str name, dict siblings):
    # One path must not stand for two values: the web app's decoder dies of that, too.
    if not name:
        name = NAMELESS
        while name in siblings:
            name += "_"
    return name


cdef int tree_value(Buffer *b, Buffer *path, value, int depth) except -1:
    cdef Py_ssize_t size, here = path.size, index
    if isinstance(value, float):
        put_little_endian(tree_record(b, path, TYPE_FLOAT, 8), bits_of(value), 8)
    elif isinstance(value, str):
        tree_text(b, path, value)
    elif value is None:
        tree_record(b, path, TYPE_NULL, 0)
    elif isinstance(value, bool):
        tree_record(b, path, TYPE_BOOL, 1)[0] = 1 if value else 0
    elif isinstance(value, int):
        tree_int(b, path, value)
    elif depth == 2 * MAX_NESTING and isinstance(value, (dict, list, tuple)):
        tree_text(b, path, "[nested too deep]")  # the rest of the answer must not end here
    elif isinstance(value, dict):
        if not value:
            tree_record(b, path, TYPE_EMPTY, 0)
        for name, child in (<dict>value).items():
            path_element(path, name_beside(name, value) if isinstance(name, str) else name)
            tree_value(b, path, child, depth + 1)
            path.size = here
    elif isinstance(value, (list, tuple)):
        tree_record(b, path, TYPE_LIST, 0)
        for index, child in enumerate(value):
            path_element(path, index)
            tree_value(b, path, child, depth + 1)
            path.size = here
    elif isinstance(value, bytes):
        size = PyBytes_GET_SIZE(value)
        memcpy(tree_record(b, path, TYPE_BYTES, size), PyBytes_AS_STRING(value), size)
    else:
        raise TypeError(f"{type(value).__name__} has no place in a stream")
    return 0


def tree_records(name, value):
    cdef Buffer b, path
    buffer_open(&b)
    buffer_open(&path)
    try:
        if name is not None:
            path_element(&path, name)
        tree_value(&b, &path, value, 0)
        return buffer_value(&b)
    finally:
        buffer_close(&path)
        buffer_close(&b)
