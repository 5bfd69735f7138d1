/* The load generator's inner loop: websocket clients that keep one frame in flight each, as the SDK does.
 *
 * What is sent is decided by loadgen.py, which passes templates made with json.dumps; here the fields are filled in,
 * the frame is masked and sent, the reply compared and the time taken. In C because the generator shares the machine
 * with the server that it measures: a frame of 100 messages costs it about 30 microseconds, half of it the kernel's.
 * TLS where it is compiled with WITH_TLS (no certificate is checked), no compression on offer (the SDK offers it; a server that accepts would spend more), one thread.
 *
 * A template is text with field marks: \1 run id, \2 metric name, \3 value, \4 step, \5 client_datetime.
 * Message number i of a connection is metric i % metrics at step i / metrics; its value the next of the values file;
 * its client_datetime the clock's, counted back through the frame by 1-19 us a message; or, with a spacing, a
 * clock of the run's own that each step moves on by that much, give or take a tenth, as a training loop's would.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
#include <signal.h>
#endif

static const char OK_REPLY[] = "\x81\x1c{\"status\":\"ok\",\"error\":null}";
enum { OK_LENGTH = sizeof OK_REPLY - 1, HEADER_MAX = 14, REPLY_MAX = 65536, TAIL_SECONDS = 60 };

typedef struct {
    int fd, index;
    char run[160];
    int64_t messages;      /* built so far: decides metric, step and value */
    int64_t clock_us;      /* with a spacing: the run's own clock */
    int64_t frames;        /* sent so far */
    bool waiting;          /* a frame is in flight */
    int due;               /* paced: frames whose time has come while one was in flight */
    int64_t sent_ns;       /* when the frame in flight was sent */
    int64_t intended_ns;   /* when the schedule wanted it sent */
    int64_t next_due_ns;   /* paced: the schedule of the oldest frame that is not sent */
    char *out; size_t out_at, out_end;
    char in[REPLY_MAX]; size_t in_end;
#ifdef WITH_TLS
    SSL *tls;
#endif
} Connection;

typedef struct { int64_t *items; size_t count, room; } Samples;

static struct {
    const char *host; int port; const char *prefix; const char *token;
    int connections, batch, metrics; int64_t first_step, frames, spacing_us;
    double rate, seconds, warmup, hold;
    char *template, *create; size_t template_length, create_length;
    char **values; size_t *value_lengths; size_t values_count;
} opt = {.host = "127.0.0.1", .prefix = "bench", .connections = 1, .batch = 1, .metrics = 1, .seconds = 5};

static Samples latency, corrected;
static int64_t measured, acknowledged, rejected, late, start_ns, end_ns;
static int64_t per_second[100000];
static char first_error[512];
static size_t out_room;
static int epoll_fd;
static uint64_t random_state = 0x9E3779B97F4A7C15u;

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "loadgen: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(1);
}

#ifdef WITH_TLS
static void begin_tls(Connection *c)
{
    static SSL_CTX *context;
    if (!context) {
        signal(SIGPIPE, SIG_IGN);
        if (!(context = SSL_CTX_new(TLS_client_method()))) die("no TLS");
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    if (!(c->tls = SSL_new(context)) || !SSL_set_fd(c->tls, c->fd)) die("out of memory");
    if (SSL_connect(c->tls) != 1) die("connection %d: the TLS handshake failed", c->index);
}

/* As send and recv: what is not done is -1 with errno. */
static ssize_t told(Connection *c, int done)
{
    if (done > 0) return done;
    int why = SSL_get_error(c->tls, done);
    if (why == SSL_ERROR_ZERO_RETURN) return 0;
    errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
    return -1;
}

static ssize_t give(Connection *c, const char *data, size_t length) { return told(c, SSL_write(c->tls, data, length)); }
static ssize_t take(Connection *c, char *room, size_t length) { return told(c, SSL_read(c->tls, room, length)); }
#else
static void begin_tls(Connection *c) { (void)c; }
static ssize_t give(Connection *c, const char *data, size_t length) { return send(c->fd, data, length, MSG_NOSIGNAL); }
static ssize_t take(Connection *c, char *room, size_t length) { return recv(c->fd, room, length, 0); }
#endif

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void sample(Samples *samples, int64_t value)
{
    if (samples->count == samples->room) {
        samples->room = samples->room ? samples->room * 2 : 65536;
        samples->items = realloc(samples->items, samples->room * sizeof *samples->items);
        if (!samples->items) die("out of memory");
    }
    samples->items[samples->count++] = value;
}

static char *put_int(char *at, int64_t number)
{
    char digits[20];
    int n = 0;
    do digits[n++] = '0' + number % 10; while (number /= 10);
    while (n) *at++ = digits[--n];
    return at;
}

static char *put_fixed(char *at, int number, int width)
{
    for (int i = width - 1; i >= 0; i--, number /= 10) at[i] = '0' + number % 10;
    return at + width;
}

/* Like datetime.now(timezone.utc).isoformat(). The date is broken down once a second. */
static char *put_datetime(char *at, int64_t epoch_us)
{
    static time_t known = -1;
    static char text[20];
    time_t second = epoch_us / 1000000;
    if (second != known) {
        struct tm parts;
        gmtime_r(&second, &parts);
        char *p = put_fixed(text, parts.tm_year + 1900, 4);
        *p++ = '-', p = put_fixed(p, parts.tm_mon + 1, 2), *p++ = '-', p = put_fixed(p, parts.tm_mday, 2);
        *p++ = 'T', p = put_fixed(p, parts.tm_hour, 2), *p++ = ':', p = put_fixed(p, parts.tm_min, 2);
        *p++ = ':', p = put_fixed(p, parts.tm_sec, 2), *p++ = '.';
        known = second;
    }
    memcpy(at, text, 20);
    at = put_fixed(at + 20, epoch_us % 1000000, 6);
    memcpy(at, "+00:00", 6);
    return at + 6;
}

static char *fill(Connection *c, char *at, const char *template, size_t length, int64_t epoch_us)
{
    for (const char *p = template, *end = template + length; p < end;) {
        const char *q = p;
        while (q < end && (unsigned char)*q > 5) q++;
        at = mempcpy(at, p, q - p);
        p = q + 1;
        if (q == end) break;
        switch (*q) {
        case 1: at = stpcpy(at, c->run); break;
        case 2: at = stpcpy(at, "metric_"), at = put_fixed(at, c->messages % opt.metrics, 3); break;
        case 3: {
            size_t i = (c->messages + c->index * 7919) % opt.values_count;
            at = mempcpy(at, opt.values[i], opt.value_lengths[i]);
            break;
        }
        case 4: at = put_int(at, opt.first_step + c->messages / opt.metrics); break;
        case 5: at = put_datetime(at, epoch_us); break;
        }
    }
    return at;
}

/* Puts header and mask before a payload that stands at out + HEADER_MAX, as RFC 6455 section 5.2 has it. */
static void seal(Connection *c, int opcode, size_t length)
{
    char *payload = c->out + HEADER_MAX, *head;
    uint64_t mask = (uint32_t)next_random();
    mask |= mask << 32;
    if (length < 126) {
        head = payload - 6;
        head[1] = (char)(0x80 | length);
    } else if (length < 65536) {
        head = payload - 8;
        head[1] = (char)(0x80 | 126), head[2] = (char)(length >> 8), head[3] = (char)length;
    } else {
        head = payload - 14;
        head[1] = (char)(0x80 | 127);
        for (int i = 0; i < 8; i++) head[2 + i] = (char)((uint64_t)length >> (56 - 8 * i));
    }
    head[0] = (char)(0x80 | opcode);
    memcpy(payload - 4, &mask, 4);
    for (size_t i = 0; i < length; i += 8) {  /* out has room for the last word's rest */
        uint64_t word;
        memcpy(&word, payload + i, 8);
        word ^= mask;
        memcpy(payload + i, &word, 8);
    }
    c->out_at = head - c->out;
    c->out_end = payload + length - c->out;
}

static void push(Connection *c)
{
    while (c->out_at < c->out_end) {
        ssize_t n = give(c, c->out + c->out_at, c->out_end - c->out_at);
        if (n < 0 && errno == EAGAIN) {
            struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
            epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
            return;
        }
        if (n < 0) die("connection %d: send: %s", c->index, strerror(errno));
        c->out_at += n;
    }
}

static void send_frame(Connection *c, int64_t intended)
{
    int64_t epoch_us = now_ns(CLOCK_REALTIME) / 1000, times[opt.batch];
    if (!c->clock_us) c->clock_us = epoch_us;
    for (int i = opt.batch - 1; i >= 0; i--) times[i] = epoch_us, epoch_us -= 1 + next_random() % 19;
    for (int i = 0; opt.spacing_us && i < opt.batch; i++) {
        bool step = (c->messages + i) % opt.metrics == 0;
        c->clock_us += step ? opt.spacing_us * 9 / 10 + (int64_t)(next_random() % (opt.spacing_us / 5)) : 1 + (int64_t)(next_random() % 19);
        times[i] = c->clock_us;
    }
    char *at = c->out + HEADER_MAX;
    if (opt.batch > 1) *at++ = '[';
    for (int i = 0; i < opt.batch; i++) {
        if (i) *at++ = ',', *at++ = ' ';
        at = fill(c, at, opt.template, opt.template_length, times[i]);
        c->messages++;
    }
    if (opt.batch > 1) *at++ = ']';
    seal(c, 1, at - (c->out + HEADER_MAX));
    c->waiting = true;
    c->frames++;
    c->sent_ns = now_ns(CLOCK_MONOTONIC);
    c->intended_ns = intended ? intended : c->sent_ns;
    push(c);
}

static bool may_send(Connection *c, int64_t now)
{
    return now < end_ns && (!opt.frames || c->frames < opt.frames);
}

static void take_reply(Connection *c, bool ok, const char *text, size_t length)
{
    int64_t now = now_ns(CLOCK_MONOTONIC);
    if (!ok) {
        rejected++;
        if (!first_error[0]) snprintf(first_error, sizeof first_error, "%.*s", (int)length, text);
    } else {
        acknowledged += opt.batch;
        if (now >= start_ns && now < end_ns) {
            measured += opt.batch;
            size_t second = (now - start_ns) / 1000000000;
            if (second < sizeof per_second / sizeof *per_second) per_second[second] += opt.batch;
            sample(&latency, now - c->sent_ns);
            sample(&corrected, now - c->intended_ns);
            late += c->sent_ns - c->intended_ns > 1000000;
        }
    }
    c->waiting = false;
    if (opt.rate == 0) {
        if (may_send(c, now)) send_frame(c, 0);
    } else if (c->due && may_send(c, now)) {
        c->due--;
        int64_t intended = c->next_due_ns;
        c->next_due_ns += (int64_t)(1e9 / opt.rate);
        send_frame(c, intended);
    }
}

static void readable(Connection *c)
{
    ssize_t n = take(c, c->in + c->in_end, REPLY_MAX - c->in_end);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) die("connection %d was closed by the server: %s", c->index, n ? strerror(errno) : "end of stream");
    c->in_end += n;
    size_t at = 0;
    while (c->in_end - at >= 2) {
        unsigned char *frame = (unsigned char *)c->in + at;
        size_t header = 2, length = frame[1] & 0x7f;
        if (length == 127) die("a reply of 64 KiB or more");
        if (length == 126) {
            if (c->in_end - at < 4) break;
            header = 4, length = frame[2] << 8 | frame[3];
        }
        if (header + length > REPLY_MAX) die("a reply that is too long");
        if (c->in_end - at < header + length) break;
        at += header + length;
        if (frame[0] == 0x89) {  /* a ping; the write of a frame that is still under way goes first, rarely */
            if (c->out_at < c->out_end) continue;
            memcpy(c->out + HEADER_MAX, frame + header, length);
            seal(c, 0xA, length);
            push(c);
        } else if (frame[0] == 0x81) {
            bool ok = header + length == OK_LENGTH && !memcmp(frame, OK_REPLY, OK_LENGTH);
            if (!c->waiting) die("connection %d: a reply that nobody waits for", c->index);
            take_reply(c, ok, (char *)frame + header, length);
        } else {
            die("connection %d: unexpected frame 0x%02x, %zu bytes: %.*s", c->index, frame[0], length,
                length > 2 ? (int)length - 2 : 0, frame + header + 2);
        }
    }
    memmove(c->in, c->in + at, c->in_end - at);
    c->in_end -= at;
}

static void send_all(Connection *c, const char *data, size_t length)
{
    for (ssize_t n; length; data += n, length -= n)
        if ((n = give(c, data, length)) < 0) die("send: %s", strerror(errno));
}

static void open_connection(Connection *c, int index)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(opt.port)};
    if (inet_pton(AF_INET, opt.host, &address.sin_addr) != 1) die("%s is no IPv4 address", opt.host);
    int on = 1;
    c->index = index;
    snprintf(c->run, sizeof c->run, "%s-%05d", opt.prefix, index);
    if (!(c->out = malloc(out_room))) die("out of memory");
    if ((c->fd = socket(AF_INET, SOCK_STREAM, 0)) < 0) die("socket: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    begin_tls(c);
    char request[1024];
    int length = snprintf(request, sizeof request,
        "GET /api/v1/ws/runs/%s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n",
        c->run, opt.host, opt.port, opt.token ? "Authorization: Bearer " : "", opt.token ? opt.token : "", opt.token ? "\r\n" : "");
    send_all(c, request, length);
    size_t got = 0;
    char *end = NULL;
    while (!end) {
        ssize_t n = take(c, c->in + got, 4096 - 1 - got);
        if (n <= 0) die("no answer to the handshake");
        got += n;
        c->in[got] = 0;
        end = strstr(c->in, "\r\n\r\n");
    }
    if (strncmp(c->in, "HTTP/1.1 101", 12)) die("the handshake was refused: %.*s", (int)(strchr(c->in, '\r') - c->in), c->in);
    if (!opt.create_length) return;
    char *payload_end = fill(c, c->out + HEADER_MAX, opt.create, opt.create_length, now_ns(CLOCK_REALTIME) / 1000);
    seal(c, 1, payload_end - (c->out + HEADER_MAX));
    send_all(c, c->out + c->out_at, c->out_end - c->out_at);
    c->out_at = c->out_end;
    for (got = 0; got < OK_LENGTH;) {
        ssize_t n = take(c, c->in + got, OK_LENGTH - got);
        if (n <= 0) die("no reply to create_run");
        got += n;
    }
    if (memcmp(c->in, OK_REPLY, OK_LENGTH)) die("create_run was answered with %.*s", (int)got - 2, c->in + 2);
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, Samples *samples)
{
    static const double points[] = {0.5, 0.9, 0.99, 0.999};
    qsort(samples->items, samples->count, sizeof *samples->items, ascending);
    printf("\"%s\": {", name);
    for (int i = 0; i < 4; i++)
        printf("\"p%g\": %.4f, ", points[i] * 100, samples->count ? samples->items[(size_t)(points[i] * (samples->count - 1))] / 1e6 : 0);
    printf("\"max\": %.4f}, ", samples->count ? samples->items[samples->count - 1] / 1e6 : 0);
}

static char *read_file(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    if (!file) die("%s: %s", path, strerror(errno));
    fseek(file, 0, SEEK_END);
    *length = ftell(file);
    rewind(file);
    char *text = malloc(*length + 1);
    if (!text || fread(text, 1, *length, file) != *length) die("%s: cannot be read", path);
    text[*length] = 0;
    fclose(file);
    return text;
}

static void read_values(const char *path)
{
    size_t length, room = 0;
    char *text = read_file(path, &length);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        if (opt.values_count == room) {
            room = room ? room * 2 : 65536;
            opt.values = realloc(opt.values, room * sizeof *opt.values);
            opt.value_lengths = realloc(opt.value_lengths, room * sizeof *opt.value_lengths);
        }
        opt.values[opt.values_count] = line;
        opt.value_lengths[opt.values_count++] = strlen(line);
    }
    if (!opt.values_count) die("%s holds no values", path);
}

/* Options come from loadgen.py only, as pairs: --name value. */
static void read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"port", 1, 0, 'p'}, {"prefix", 1, 0, 'r'}, {"connections", 1, 0, 'c'}, {"messages", 1, 0, 'b'},
        {"metrics", 1, 0, 'm'}, {"rate", 1, 0, 'f'}, {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'w'}, {"hold", 1, 0, 'h'},
        {"frames", 1, 0, 'n'}, {"first-step", 1, 0, 's'}, {"spacing-us", 1, 0, 'u'}, {"template", 1, 0, 'x'}, {"create", 1, 0, 'y'}, {"values", 1, 0, 'v'}, {"token", 1, 0, 'k'}, {0}};
    for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (o) {
        case 'p': opt.port = atoi(optarg); break;
        case 'r': opt.prefix = optarg; break;
        case 'c': opt.connections = atoi(optarg); break;
        case 'b': opt.batch = atoi(optarg); break;
        case 'm': opt.metrics = atoi(optarg); break;
        case 'f': opt.rate = atof(optarg); break;
        case 't': opt.seconds = atof(optarg); break;
        case 'w': opt.warmup = atof(optarg); break;
        case 'h': opt.hold = atof(optarg); break;
        case 'n': opt.frames = atoll(optarg); break;
        case 'u': opt.spacing_us = atoll(optarg); break;
        case 's': opt.first_step = atoll(optarg); break;
        case 'x': opt.template = read_file(optarg, &opt.template_length); break;
        case 'y': opt.create = read_file(optarg, &opt.create_length); break;
        case 'v': read_values(optarg); break;
        case 'k': opt.token = optarg; break;
        default: exit(2);
    }
    if (!opt.port || !opt.template || !opt.values) die("to be called by loadgen.py");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    out_room = HEADER_MAX + 1024 + (size_t)opt.batch * (opt.template_length + 320);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int n = opt.connections;
    Connection *all = calloc(n, sizeof *all);
    int64_t *phases = calloc(n, sizeof *phases);
    if (!all || !phases) die("out of memory");
    for (int i = 0; i < n; i++) open_connection(&all[i], i);
    if (opt.hold > 0) {  /* idle connections: the caller looks at the server meanwhile */
        printf("{\"connected\": %d}\n", n);
        fflush(stdout);
        usleep(opt.hold * 1e6);
        return 0;
    }

    printf("{\"connected\": %d}\n", n);  /* the caller looks at the server's CPU here and at the result */
    fflush(stdout);
    epoll_fd = epoll_create1(0);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer, &event);
    int64_t begun = now_ns(CLOCK_MONOTONIC), interval = opt.rate > 0 ? (int64_t)(1e9 / opt.rate) : 0;
    start_ns = begun + (int64_t)(opt.warmup * 1e9);
    end_ns = start_ns + (int64_t)(opt.seconds * 1e9);
    for (int i = 0; interval && i < n; i++) phases[i] = next_random() % interval;
    qsort(phases, n, sizeof *phases, ascending);
    for (int i = 0; i < n; i++) {
        fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
        event = (struct epoll_event){.events = EPOLLIN, .data.ptr = &all[i]};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, all[i].fd, &event);
        all[i].next_due_ns = begun + phases[i];
        if (!interval) send_frame(&all[i], 0);
    }

    /* All connections have the same rate, so their frames come due in turn: `turn` is the next one's. */
    int64_t round = 0, armed = 0;
    int turn = 0, unanswered = 0;
    for (;;) {
        int64_t now = now_ns(CLOCK_MONOTONIC), due = 0;
        while (interval && (due = begun + round * interval + phases[turn]) <= now && due < end_ns) {
            Connection *c = &all[turn];
            if (c->waiting) {
                c->due++;
            } else if (may_send(c, now)) {
                c->next_due_ns += interval;
                send_frame(c, due);
            }
            if (++turn == n) turn = 0, round++;
        }
        if (interval && due < end_ns && armed != due) {
            struct itimerspec at = {.it_value = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
            armed = due;
        }
        bool done = opt.frames > 0;
        for (int i = 0; done && i < n; i++) done = all[i].frames >= opt.frames && !all[i].waiting;
        if (done && end_ns > now) end_ns = now;
        if (now >= end_ns) {
            unanswered = 0;
            for (int i = 0; i < n; i++) unanswered += all[i].waiting;
            if (!unanswered || now > end_ns + TAIL_SECONDS * 1000000000ll) break;
        }
        int ready = epoll_wait(epoll_fd, events, 256, 100);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (!c) {
                uint64_t times;
                if (read(timer, &times, sizeof times) < 0 && errno != EAGAIN) die("timer: %s", strerror(errno));
                continue;
            }
            if (events[i].events & EPOLLOUT) {
                event = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
                push(c);
            }
            if (events[i].events & ~(uint32_t)EPOLLOUT) readable(c);
        }
    }

    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double seconds = (end_ns - start_ns) / 1e9;
    size_t whole = (size_t)seconds;
    printf("{\"seconds\": %.3f, \"messages_per_s\": %.1f, \"frames_per_s\": %.1f, ", seconds,
        measured / seconds, measured / seconds / opt.batch);
    print_samples("ack_ms", &latency);
    print_samples("ack_from_schedule_ms", &corrected);
    printf("\"sent_late\": %ld, \"measured\": %ld, \"acknowledged\": %ld, \"rejected_frames\": %ld, \"unanswered\": %d, ",
        (long)late, (long)measured, (long)acknowledged, (long)rejected, unanswered);
    printf("\"generator_cpu_s\": %.3f, \"per_second\": [",
        usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    for (size_t i = 0; i < whole && i < sizeof per_second / sizeof *per_second; i++)
        printf("%s%ld", i ? ", " : "", (long)per_second[i]);
    printf("]}\n");
    if (first_error[0]) fprintf(stderr, "loadgen: first reply that is not ok: %s\n", first_error);
    return 0;
}
