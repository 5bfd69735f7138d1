# cython: language_level=3
"""A plugin of librdkafka's that has it write to a descriptor when something waits for poll().

A thread that waits in poll() costs each answer two changes of threads and a struggle for Python's lock: a sixth of what a frame
costs at a moderate load. librdkafka can tell a descriptor instead (rd_kafka_queue_io_event_enable), but wants its own
handle for that, and confluent-kafka shows it to nobody. A plugin (plugin.library.paths, rdkafka.h's "Plugin interface" and
"Interceptors") is given the handle of each client that is made with it. Rejected: to read it out of confluent-kafka's object,
whose layout is nobody's promise.

The functions come as addresses from the librdkafka that confluent-kafka has loaded. No poll, no policy: `answers.py`.
"""

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <unistd.h>

    /* Of the client that this thread makes: the descriptor; then the duplicate that the client has of it, and its handle. */
    static _Thread_local int matyan_expected = -1;
    static _Thread_local int matyan_own_fd = -1;
    static _Thread_local void* matyan_client = 0;
    static int matyan_duplicate(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }

    /* What librdkafka looks for in a plugin. In C: Cython would write a header for it. */
    static int (*matyan_conf_init)(void* conf);
    int conf_init(void* conf, void** opaque, char* reason, size_t size) { return matyan_conf_init(conf); }
    """
    int matyan_expected
    int matyan_own_fd
    void* matyan_client
    int matyan_duplicate(int fd)
    int (*matyan_conf_init)(void* conf) noexcept
    int close(int fd)

ctypedef int (*on_new_t)(void*, const void*, void*, char*, size_t) noexcept nogil
ctypedef int (*on_destroy_t)(void*, void*) noexcept nogil
ctypedef int (*add_on_new_t)(void*, const char*, on_new_t, void*) noexcept nogil
ctypedef int (*add_on_destroy_t)(void*, const char*, on_destroy_t, void*) noexcept nogil
ctypedef void* (*get_main_t)(void*) noexcept nogil
ctypedef void (*io_event_enable_t)(void*, int, const void*, size_t) noexcept nogil
ctypedef void (*queue_destroy_t)(void*) noexcept nogil

FUNCTIONS = (
    "rd_kafka_conf_interceptor_add_on_new",
    "rd_kafka_interceptor_add_on_destroy",
    "rd_kafka_queue_get_main",
    "rd_kafka_queue_io_event_enable",
    "rd_kafka_queue_destroy",
)

cdef add_on_new_t _add_on_new = NULL
cdef add_on_destroy_t _add_on_destroy = NULL
cdef get_main_t _get_main = NULL
cdef io_event_enable_t _io_event_enable = NULL
cdef queue_destroy_t _queue_destroy = NULL

cdef const char* _NAME = "matyan"
# What is written. librdkafka copies it.
cdef const char* _ONE = "1"
# RD_KAFKA_RESP_ERR__FAIL
cdef enum:
    FAILED = -196


def load(addresses):
    """addresses: of FUNCTIONS, in their order. Once, before the first client is made."""
    global _add_on_new, _add_on_destroy, _get_main, _io_event_enable, _queue_destroy, matyan_conf_init
    cdef size_t[5] at = addresses
    _add_on_new = <add_on_new_t>at[0]
    _add_on_destroy = <add_on_destroy_t>at[1]
    _get_main = <get_main_t>at[2]
    _io_event_enable = <io_event_enable_t>at[3]
    _queue_destroy = <queue_destroy_t>at[4]
    matyan_conf_init = _conf_init


def expect(int fd):
    """The next client that this thread makes is to write to `fd`: call `enable` when it is made."""
    global matyan_expected, matyan_client
    matyan_expected, matyan_client = fd, NULL


def enable():
    """From now on the expected client writes a byte whenever its main queue was empty and is no more.

    Raises:
        RuntimeError: none was made.
    """
    global matyan_client
    cdef void* client = matyan_client
    matyan_client = NULL
    if client == NULL:
        raise RuntimeError("librdkafka made no client with this plugin")
    _write_to(client, matyan_own_fd)


cdef void _write_to(void* client, int fd) noexcept nogil:
    cdef void* queue = _get_main(client)
    _io_event_enable(queue, fd, _ONE, 1)
    _queue_destroy(queue)


cdef int _on_new(void* client, const void* conf, void* opaque, char* reason, size_t size) noexcept nogil:
    # Its queue comes later: so all that is done here is to remember it.
    global matyan_expected, matyan_own_fd, matyan_client
    # A duplicate, which ends with the client: whoever made the descriptor may close it before that.
    cdef int fd = matyan_duplicate(matyan_expected)
    matyan_expected = -1
    if fd < 0:
        return FAILED
    cdef int error = _add_on_destroy(client, _NAME, _on_destroy, <void*><size_t>fd)
    if error:
        close(fd)
        return error
    matyan_own_fd, matyan_client = fd, client
    return 0


cdef int _on_destroy(void* client, void* opaque) noexcept nogil:
    # Its threads go on for a moment.
    _write_to(client, -1)
    close(<int><size_t>opaque)
    return 0


cdef int _conf_init(void* conf) noexcept nogil:
    return _add_on_new(conf, _NAME, _on_new, NULL)
