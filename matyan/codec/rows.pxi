# Rows as a reader meets them: the pairs of a scan become trees and traces. What none of the layout's writers has written is skipped,
# or read by the caller's `other` (readable.py says how); nothing here raises for what stands there.


cdef object NOT_PLAIN = object()


cdef inline uint64_t big_endian(const uint8_t *p, int n) noexcept:
    cdef uint64_t bits = 0
    cdef int at
    for at in range(n):
        bits = bits << 8 | p[at]
    return bits


cdef object plain_text(const uint8_t *p, Py_ssize_t left, Py_ssize_t head, Py_ssize_t size, Py_ssize_t *used):
    if left < head + size:
        return NOT_PLAIN
    used[0] = head + size
    try:
        return PyUnicode_DecodeUTF8(<const char *>p + head, size, NULL)
    except UnicodeDecodeError:
        return NOT_PLAIN


cdef object plain_value(const uint8_t *p, Py_ssize_t left, Py_ssize_t *used):
    # The msgpack scalar at p, and how many bytes it takes; NOT_PLAIN: it is none, or damaged.
    cdef uint8_t code
    cdef int n
    if left == 0:
        return NOT_PLAIN
    code = p[0]
    used[0] = 1
    if code < 0x80:
        return <int>code
    if code >= 0xE0:
        return <int>code - 0x100
    if 0xA0 <= code < 0xC0:
        return plain_text(p, left, 1, code - 0xA0, used)
    if code == 0xC0:
        return None
    if code == 0xC2 or code == 0xC3:
        return code == 0xC3
    if code == 0xCB and left >= 9:
        used[0] = 9
        return double_of(big_endian(p + 1, 8))
    if 0xCC <= code <= 0xD3:
        n = 1 << (code & 3)
        if left < 1 + n:
            return NOT_PLAIN
        used[0] = 1 + n
        if code < 0xD0:
            return big_endian(p + 1, n)
        # The sign is the first bit of n bytes.
        return <int64_t>(big_endian(p + 1, n) << (64 - 8 * n)) >> (64 - 8 * n)
    if code == 0xD9 and left >= 2:
        return plain_text(p, left, 2, p[1], used)
    if code == 0xDA and left >= 3:
        return plain_text(p, left, 3, p[1] << 8 | p[2], used)
    return NOT_PLAIN


cdef object row_value(bytes packed, other):
    # A scalar, or a short list of them; whatever else is `other`'s.
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(packed)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packed), at, used = 0
    cdef int left
    cdef list items
    if size == 0 or not 0x90 <= p[0] < 0xA0:
        value = plain_value(p, size, &used)
        return other(packed) if value is NOT_PLAIN or used != size else value
    items = []
    at = 1
    for left in range(p[0] - 0x90):
        value = plain_value(p + at, size - at, &used)
        if value is NOT_PLAIN:
            return other(packed)
        items.append(value)
        at += used
    return items if at == size else other(packed)


cdef tuple row_elements(bytes key, Py_ssize_t start):
    # The key's elements behind `start`; None where it is no tuple.
    try:
        return unpack(key, start)
    except ValueError:
        return None


cdef class TreeNode:
    cdef dict children  # None: there are none
    cdef object value


cdef TreeNode tree_node(value):
    cdef TreeNode node = TreeNode.__new__(TreeNode)
    node.value = value
    return node


cdef object tree_built(TreeNode node):
    cdef dict children = node.children
    if children is None:
        return node.value
    for element in children:
        if not isinstance(element, int):
            return {str(element): tree_built(<TreeNode>child) for element, child in children.items()}
    return [tree_built(<TreeNode>child) for child in children.values()]


def read_tree(pairs, Py_ssize_t start, int most_depth, other, missing):
    cdef TreeNode root = tree_node(missing), node, child
    cdef tuple elements
    cdef Py_ssize_t depth, at
    for key, packed in pairs:
        elements = row_elements(key, start)
        if not elements:
            continue
        depth = len(elements) - 1
        marker = elements[depth]
        if depth > most_depth or not (marker == LEAF or marker == EMPTY_DICT or marker == EMPTY_LIST):
            continue
        for at in range(depth):
            if type(elements[at]) is not str and type(elements[at]) is not int:
                break
        else:
            node = root
            for at in range(depth):
                element = elements[at]
                if node.children is None:
                    node.children = {}
                found = node.children.get(element)
                if found is None:
                    found = node.children[element] = tree_node(missing)
                node = <TreeNode>found
            if marker == LEAF:
                node.value = row_value(packed, other)
            else:
                node.value = {} if marker == EMPTY_DICT else []
    return tree_built(root)


def read_traces(pairs, Py_ssize_t start, other):
    # Of rows (ctx, name, field) those of a sequence follow each other.
    cdef tuple elements
    cdef dict fields = None
    at = None
    for key, packed in pairs:
        elements = row_elements(key, start)
        if elements is None or len(elements) != 3:
            continue
        ctx, name, field = elements
        if type(ctx) is not int or type(name) is not str or type(field) is not str:
            continue
        if fields is None or at[1] != name or at[0] != ctx:
            if fields is not None:
                yield at, fields
            at, fields = (ctx, name), {}
        fields[field] = row_value(packed, other)
    if fields is not None:
        yield at, fields


def read_values(pairs, Py_ssize_t start, Columns into not None, Py_ssize_t most, other):
    # `pairs` is an iterator: the next call goes on behind what this one took.
    cdef tuple elements
    for key, packed in pairs:
        elements = row_elements(key, start)
        if elements is None or len(elements) != 1:
            continue
        step = elements[0]
        if type(step) is not int or not INT64_MIN <= step <= INT64_MAX:
            continue
        value = row_value(packed, other)
        if type(value) is not float and type(value) is not int:
            continue
        into.append(step, value, 0.0)
        if into.size >= most:
            return True
    return False
