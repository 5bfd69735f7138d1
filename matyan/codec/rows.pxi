# Rows as a reader meets them: the pairs of a scan become trees and traces. What none of the layout's writers has written is skipped,
# or read by the caller's `other` (readable.py says how); nothing here raises for what stands there.


cdef object NOT_PLAIN = object()


cdef object plain_text(Cursor *c, Py_ssize_t size):
    cdef Span text
    if left(c) < size:
        return NOT_PLAIN
    span_begin(&text, c)
    advance(c, size)
    span_end(&text, c)
    try:
        return span_text(&text, NULL)
    except UnicodeDecodeError:
        return NOT_PLAIN


cdef object plain_value(Cursor *c):
    # The msgpack scalar at the cursor; NOT_PLAIN: it is none, or damaged.
    cdef int code = next_byte(c), n
    cdef uint64_t number = 0
    if code < 0:
        return NOT_PLAIN
    if code < 0x80:
        return code
    if code >= 0xE0:
        return code - 0x100
    if 0xA0 <= code < 0xC0:
        return plain_text(c, code - 0xA0)
    if code == 0xC0:
        return None
    if code == 0xC2 or code == 0xC3:
        return code == 0xC3
    if code == 0xCB and left(c) >= 8:
        take_big_endian(c, 8, &number)
        return double_of(number)
    if 0xCC <= code <= 0xD3:
        n = 1 << (code & 3)
        if left(c) < n:
            return NOT_PLAIN
        take_big_endian(c, n, &number)
        if code < 0xD0:
            return number
        # The sign is the first bit of n bytes.
        return <int64_t>(number << (64 - 8 * n)) >> (64 - 8 * n)
    n = code - 0xD8
    if (n == 1 or n == 2) and left(c) >= n:
        take_big_endian(c, n, &number)
        return plain_text(c, number)
    return NOT_PLAIN


cdef object row_value(bytes packed, other):
    # A scalar, or a short list of them; whatever else is `other`'s.
    cdef Cursor cursor
    cdef Cursor *c = &cursor
    cdef int code, items_left
    cdef list items
    cursor_open(c, packed)
    code = peek(c)
    if not 0x90 <= code < 0xA0:
        value = plain_value(c)
        return other(packed) if value is NOT_PLAIN or left(c) else value
    advance(c, 1)
    items = []
    for items_left in range(code - 0x90):
        value = plain_value(c)
        if value is NOT_PLAIN:
            return other(packed)
        items.append(value)
    return other(packed) if left(c) else items


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
