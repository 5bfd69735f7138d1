# Rows as a reader meets them: the pairs of a scan become trees and traces. What none of the layout's writers has written is skipped,
# or read by the caller's `other` (readable.py says how); nothing here raises for what stands there.


cdef inline object plain_int(const uint8_t *p, Py_ssize_t size):
    # msgpack's cc … cf and d0 … d3 with as many bytes as they say; None otherwise.
    cdef int kind = p[0] - 0xCC
    cdef int n = 1 << (kind & 3)
    cdef uint64_t bits = 0
    cdef int at
    if size != 1 + n:
        return None
    for at in range(n):
        bits = bits << 8 | p[1 + at]
    if kind < 4:
        return bits
    # The sign is the first of n bytes.
    return <int64_t>(bits << (64 - 8 * n)) >> (64 - 8 * n)


cdef object plain_text(bytes packed, Py_ssize_t head, Py_ssize_t size, other):
    if PyBytes_GET_SIZE(packed) != head + size:
        return other(packed)
    try:
        return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(packed) + head, size, NULL)
    except UnicodeDecodeError:
        return other(packed)


cdef object row_value(bytes packed, other):
    # A scalar; whatever else is `other`'s.
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(packed)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packed)
    cdef uint8_t code
    cdef uint64_t bits = 0
    cdef int at
    if size == 0:
        return other(packed)
    code = p[0]
    if code == 0xCB and size == 9:
        for at in range(8):
            bits = bits << 8 | p[1 + at]
        return double_of(bits)
    if size == 1:
        if code < 0x80:
            return <int>code
        if code >= 0xE0:
            return <int>code - 0x100
        if code == 0xC2 or code == 0xC3:
            return code == 0xC3
        if code == 0xC0:
            return None
    if 0xA0 <= code < 0xC0:
        return plain_text(packed, 1, code - 0xA0, other)
    if code == 0xD9 and size >= 2:
        return plain_text(packed, 2, p[1], other)
    if code == 0xDA and size >= 3:
        return plain_text(packed, 3, p[1] << 8 | p[2], other)
    if 0xCC <= code <= 0xD3:
        number = plain_int(p, size)
        if number is not None:
            return number
    return other(packed)


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
