# A client's frame judged while it arrives. `Validator` gives the same result for the pieces as `validate` for the whole, and
# holds only its records and the item that has not arrived completely. What an item means is judged in messages.pxi.
#
# Most items arrive completely, and are judged at once. For the others, each new piece is searched for the item's end, by
# brackets and quotes alone. So each byte is read at most twice, however the frame was cut into pieces.

cdef enum:
    ROOM_KEPT_BYTES = 64 << 10

cdef enum Phase:
    AT_BEGIN   # nothing but space so far
    AT_FIRST   # behind the opening bracket of an array
    AT_ITEM    # at an item, or at the space before it
    IN_ITEM    # in an item that is not complete
    AT_COMMA   # behind an item of an array
    AT_END     # nothing but space may follow
    FAILED


cdef inline Cursor place(const Buffer *text, Py_ssize_t at) noexcept:
    """A cursor at byte `at` of the text, which must not grow while it is in use."""
    cdef Cursor c
    cursor_over(&c, text.data, text.size)
    advance(&c, at)
    return c


cdef inline bint ends_word(int ch) noexcept:
    """Whether a byte ends a number or a word that stands before it."""
    return ch <= c' ' or ch == c',' or ch == c']' or ch == c'}'


cdef class Validator:
    cdef Work work
    cdef Buffer text       # what is not judged yet
    cdef Validated frame
    cdef bytes run
    cdef bytes timestamp
    cdef int phase
    cdef bint many         # whether it is an array
    cdef Py_ssize_t at     # where in `text` the phase stands; an item begins there
    cdef Py_ssize_t before # bytes of the message before `text`
    cdef Py_ssize_t seen   # how far the current item was searched for its end,
    cdef Py_ssize_t depth  # how many brackets are open there,
    cdef bint quoted       # and whether that is within a string
    cdef Py_ssize_t kept   # bytes that the results take
    cdef str error
    cdef readonly bint waits
    cdef readonly Py_ssize_t held

    def __cinit__(self, bytes run not None, bytes timestamp not None):
        self.run = run
        self.timestamp = timestamp
        self.frame = Validated.__new__(Validated)
        self.phase = AT_BEGIN
        work_open(&self.work)
        buffer_open(&self.text)

    def __dealloc__(self):
        work_close(&self.work)
        buffer_close(&self.text)

    def feed(self, bytes data not None):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if self.phase == FAILED:
            return True
        if self.text.size + size > self.text.room:
            # A quarter more, not twice as much: what is reserved counts as held.
            buffer_resize(&self.text, self.text.size + size + (self.text.size >> 2))
        put(&self.text, PyBytes_AS_STRING(data), size)
        return self.go_on(False)

    def end(self):
        if self.phase == FAILED:
            return True
        return self.go_on(True)

    def judge(self):
        if self.waits:
            self.waits = False
            self.take_item(True)
            self.settle()

    def result(self):
        if self.phase == FAILED:
            raise NotJSON(self.error)
        return self.frame

    cdef object go_on(self, bint final):
        if not self.waits:
            try:
                self.run_phases(final)
            except NotJSON as error:
                self.fail(str(error))
            self.settle()
        return not self.waits

    cdef int run_phases(self, bint final) except -1:
        cdef Cursor c
        cdef int ch
        while self.phase != FAILED and not self.waits:
            if self.phase == AT_ITEM and self.frame.count == MAX_ITEMS:
                fail_limit()
            c = place(&self.text, self.at)
            if self.phase != IN_ITEM:
                skip_spaces(&c)
                self.at = position(&c)
                if left(&c) == 0:
                    break
            ch = peek(&c)
            if self.phase == AT_BEGIN:
                self.many = ch == c'['
                self.at += self.many
                self.phase = AT_FIRST if self.many else AT_ITEM
            elif self.phase == AT_FIRST:
                if ch == c']':
                    self.at += 1
                self.phase = AT_END if ch == c']' else AT_ITEM
            elif self.phase == AT_ITEM:
                # What begins with a brace is complete when it can be read; a number may go on in the next piece.
                if ch == c'{' and self.text.size - self.at <= LARGE_ITEM_BYTES and self.take_item(False):
                    continue
                self.phase = IN_ITEM
                self.seen = self.at
                self.depth = 0
                self.quoted = False
            elif self.phase == IN_ITEM:
                if not self.find_end() and not final:
                    break
                if self.text.size - self.at > LARGE_ITEM_BYTES:
                    self.waits = True
                else:
                    self.take_item(True)
            elif self.phase == AT_COMMA:
                if ch != c',' and ch != c']':
                    self.fail_at("expected a comma or the closing bracket", self.at)
                else:
                    self.at += 1
                    self.phase = AT_ITEM if ch == c',' else AT_END
            else:
                self.fail_at("unexpected text behind the end", self.at)
        if final and self.phase != FAILED and not self.waits:
            self.finish()
        return 0

    cdef int finish(self) except -1:
        """No more bytes come."""
        if self.phase == AT_COMMA:
            self.fail_at("expected a comma or the closing bracket", self.at)
        elif self.phase != AT_END:
            self.take_item(True)
        return 0

    cdef bint take_item(self, bint complete) except -1:
        """Judges the current item. False: it is no JSON; that is an error only when it is `complete`."""
        cdef Scanner *scanner = &self.work.scanner
        cdef str reason
        scanner.text = place(&self.text, self.at)
        scanner.error = NULL
        reason = validate_item(&self.work, self.run, self.timestamp)
        if scanner.error != NULL:
            if complete:
                self.fail_at(scanner.error.decode(), position(&scanner.text))
            return False
        self.kept += keep_item(self.frame, &self.work, reason)
        self.at = position(&scanner.text)
        self.phase = AT_COMMA if self.many else AT_END
        return True

    cdef bint find_end(self) noexcept:
        """Whether the current item is complete, by its brackets and quotes. Goes on where the last search stopped."""
        cdef Cursor c = place(&self.text, self.at)
        cdef int ch = peek(&c)
        cdef bint found
        if is_container(ch) or ch == c'"':
            c = place(&self.text, self.seen)
            found = self.find_close(&c)
        elif not (is_digit(ch) or ch == c'-') and left(&c) > 9:
            return True  # it is no value, however it goes on: this is longer than any word of JSON
        else:
            c = place(&self.text, self.seen)
            while left(&c) and not ends_word(peek(&c)):
                advance(&c, 1)
            found = left(&c) > 0
        self.seen = position(&c)
        return found

    cdef bint find_close(self, Cursor *c) noexcept:
        """To behind the bracket or quote that closes the item; False when it is not there yet."""
        cdef int ch
        while left(c):
            if self.quoted:
                skip_plain(c)
                ch = peek(c)
                if ch < 0 or (ch == c'\\' and left(c) < 2):
                    return False
                advance(c, 2 if ch == c'\\' else 1)
                self.quoted = ch != c'"'
                if not self.quoted and self.depth == 0:
                    return True
                continue
            ch = next_byte(c)
            if ch == c'"':
                self.quoted = True
            elif is_container(ch):
                self.depth += 1
            elif ch == c'}' or ch == c']':
                self.depth -= 1
                if self.depth == 0:
                    return True
        return False

    cdef int fail_at(self, str error, Py_ssize_t at) except -1:
        return self.fail(f"the frame is not JSON: {error} at byte {self.before + at}")

    cdef int fail(self, str error) except -1:
        self.phase = FAILED
        self.error = error
        self.frame = None
        self.kept = 0
        self.at = self.text.size
        return 0

    cdef int settle(self) except -1:
        """Drops the bytes that are judged, and counts what is held."""
        cdef Py_ssize_t rest = self.text.size - self.at
        span_clear(&self.work.members.head)  # it points into the text, which is about to move
        if self.at:
            memmove(self.text.data, self.text.data + self.at, rest)
            self.before += self.at
            self.seen -= self.at
            self.at = 0
            self.text.size = rest
            if rest <= ROOM_KEPT_BYTES < self.text.room:
                buffer_resize(&self.text, rest)
        if self.work.out.room > ROOM_KEPT_BYTES:
            buffer_close(&self.work.out)
            buffer_open(&self.work.out)
            self.work.enveloped = -1
        self.held = self.text.room + self.kept
        return 0
