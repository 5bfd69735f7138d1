"""Every Prometheus metric, named and explained. Names, labels and meanings are the reference's where it has one.

Counting only: nothing here decides. On the hot path callers count a batch, never a message, and in plain numbers (`plain.py`).
"""

from __future__ import annotations

from typing import Final

from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client import Histogram as LabelledHistogram
from prometheus_client.registry import Collector

from matyan.service.plain import Count, Histogram, Tally

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000)
_BYTES = (1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)

# --- the frontier, as the reference names them ---------------------------------------------------

WS_CONNECTIONS = Gauge("matyan_ws_connections_active", "WebSocket connections that are open")
WS_MESSAGES = Tally("matyan_ws_messages_total", "Messages accepted over WebSocket", "message_type")
WS_CONNECTION_SECONDS = Histogram(
    "matyan_ws_connection_duration_seconds",
    "How long a WebSocket connection was open",
    buckets=(1, 10, 60, 600, 3_600, 21_600, 86_400, 604_800),
)
HTTP_REQUESTS = Counter(
    "matyan_http_requests_total", "HTTP requests", ["method", "path_template", "status_class"]
)
HTTP_SECONDS = LabelledHistogram(
    "matyan_http_request_duration_seconds",
    "HTTP request duration",
    ["method", "path_template", "status_class"],
    buckets=_SECONDS,
)

# --- the frontier, ours --------------------------------------------------------------------------

FRAMES = Tally(
    "matyan_frontier_frames_total",
    "Client frames by what became of them: ok, partly (some items rejected), not_json, resend, "
    "kept (answered after 40 s, still being delivered), refused (no room for 40 s), lost (given up "
    "by the producer), deleted (of a deleted run, not stored)",
    "outcome",
)
REJECTED = Counter(
    "matyan_frontier_rejected_messages_total",
    "Messages rejected by validation",
    ["message_type", "reason"],
)
ACK_SECONDS = Histogram(
    "matyan_frontier_ack_seconds", "From a frame's last byte to its reply", buckets=_SECONDS
)
WAITING_FRAMES = Gauge("matyan_frontier_waiting_frames", "Frames that wait for their reply")
OLDEST_WAITING_SECONDS = Gauge(
    "matyan_frontier_oldest_waiting_seconds",
    "For how long the oldest of them has waited, which no histogram of replies shows while none is sent",
)
QUEUE_BYTES = Gauge("matyan_producer_queue_bytes", "Bytes held before an answer")
QUEUE_CAPACITY = Gauge("matyan_producer_queue_capacity_bytes", "The budget, MATYAN_QUEUE_BYTES")
SOCKET_CLOSES = Counter(
    "matyan_ws_closes_total", "WebSocket connections closed, by close code", ["code"]
)
QUOTA_HELD_FRAMES = Counter(
    "matyan_quota_held_frames_total",
    "Frames and presigned uploads whose reply a token's quota held back",
    ["token", "limit"],
)
QUOTA_HELD_SECONDS = Counter(
    "matyan_quota_held_seconds_total",
    "For how long a token's quota held replies back",
    ["token", "limit"],
)
QUOTA_REFUSED = Counter(
    "matyan_quota_refused_total",
    "Connections and uploads that a token's quota refused",
    ["token", "limit"],
)

TLS_EXPIRES = Gauge(
    "matyan_tls_certificate_expiry_timestamp_seconds",
    "Until when the listener's certificate is good",
    # So that nothing is shown without TLS: a zero would be an alert.
    ["file"],
)
TLS_HANDSHAKES = Tally(
    "matyan_tls_handshakes_total",
    "Connections to the listener under TLS, by how they began: ok, plain (no TLS), failed (the two could not agree), late "
    "(not complete in time), gone (the client ended it)",
    "outcome",
)

# --- the ingestion worker, as the reference names them -------------------------------------------

INGEST_CONSUMED = Count("matyan_ingestion_messages_consumed_total", "Records read from the broker")
INGEST_PROCESSED = Tally(
    "matyan_ingestion_messages_processed_total", "Records applied to the store", "message_type"
)
INGEST_ERRORS = Counter(
    "matyan_ingestion_processing_errors_total", "Failures while applying", ["error_type"]
)
INGEST_BATCH_SIZE = Histogram("matyan_ingestion_batch_size", "Records a batch", buckets=_COUNTS)
INGEST_BATCH_SECONDS = Histogram(
    "matyan_ingestion_batch_processing_seconds",
    "Time to apply and commit a batch",
    buckets=_SECONDS,
)
INGEST_TXN_BYTES = Histogram(
    "matyan_ingestion_txn_estimated_bytes", "Bytes of records in a transaction", buckets=_BYTES
)
INGEST_FDB_RETRIES = Counter(
    "matyan_ingestion_fdb_retries_total", "Transactions that the store ran again"
)

# --- the workers, ours ---------------------------------------------------------------------------

COMMIT_SECONDS = Histogram(
    "matyan_store_commit_seconds", "One transaction, its sync included", buckets=_SECONDS
)
FDB_COMMIT_SECONDS = Histogram(
    "matyan_fdb_commit_seconds", "One FoundationDB commit", buckets=_SECONDS
)
FDB_READ_SECONDS = Histogram(
    "matyan_fdb_read_seconds",
    "How long a committed FoundationDB transaction waited for what it read",
    buckets=_SECONDS,
)
FDB_TXN_BYTES = Histogram(
    "matyan_fdb_transaction_bytes",
    "Keys and values that a FoundationDB transaction wrote",
    buckets=_BYTES,
)
FDB_ERRORS = Counter(
    "matyan_fdb_errors_total",
    "FoundationDB transactions that did not commit, by error code (1020: a conflict)",
    ["code"],
)
END_TO_END_SECONDS = Histogram(
    "matyan_ingestion_end_to_end_seconds",
    "From the frontier's timestamp of a batch's first record to its commit",
    buckets=_SECONDS,
)
SKIPPED = Counter(
    "matyan_ingestion_skipped_records_total",
    "Records not applied again: stored_offset (below it), tombstone (their run was deleted)",
    ["cause"],
)
DEAD_LETTERS = Counter("matyan_dead_letters_total", "Records sent to the dead letters", ["topic"])
RETRIES = Counter(
    "matyan_retries_total", "Waits before trying again, by cause", ["service", "cause"]
)
PAUSED_SECONDS = Counter(
    "matyan_consumer_paused_seconds_total", "Time that partitions stood paused", ["topic"]
)
REBALANCES = Counter("matyan_consumer_rebalances_total", "Rebalance callbacks", ["event"])
LAG = Gauge("matyan_consumer_lag_records", "End offset less stored offset", ["topic", "partition"])
STALLED = Gauge(
    "matyan_consumer_partition_stalled",
    "1 while a partition is not read on: engine (one is away, and is asked again and again), conflict (a person has to decide)",
    # So that what goes on is not shown.
    ["topic", "partition", "cause"],
)
FOLDER_FREE_BYTES = Gauge(
    "matyan_data_folder_free_bytes",
    "What this user may still write to the file system of the open data folder",
    # So that nothing is shown where the store is a cluster: a zero would be an alert.
    ["folder"],
)
FOLDER_DISK_BYTES = Gauge(
    "matyan_data_folder_filesystem_bytes", "The size of that file system", ["folder"]
)
LOG_LINES_LOST = Counter(
    "matyan_log_lines_lost_total", "Log lines that could not be written: closed, full or not read"
)
TOKENS = Gauge(
    "matyan_tokens", "Tokens that may come in, expired ones too; 0 where none is asked for"
)
TOKENS_FILE_TROUBLE = Gauge(
    "matyan_tokens_file_trouble",
    "1 while the tokens file is missing or cannot be read, and what it said last still holds",
)
REFUSED = Counter(
    "matyan_refused_total",
    "Requests and handshakes refused for their token: missing, malformed, unknown (wrong or revoked), expired, scope",
    ["reason"],
)
RESTARTS = Counter("matyan_service_restarts_total", "Crashed tasks started again", ["task"])

# --- the control worker, as the reference names them ---------------------------------------------

CONTROL_CONSUMED = Counter("matyan_control_events_consumed_total", "Control events read")
CONTROL_PROCESSED = Counter(
    "matyan_control_events_processed_total", "Control events handled", ["event_type"]
)
CONTROL_ERRORS = Counter(
    "matyan_control_processing_errors_total", "Failures while handling", ["error_type"]
)
CONTROL_SECONDS = Histogram(
    "matyan_control_processing_duration_seconds", "Time to handle one event", buckets=_SECONDS
)

WEBHOOK_DELIVERIES = Counter(
    "matyan_webhook_deliveries_total",
    "Messages to webhooks by what became of them: delivered, failed (tried again later), dead (given up)",
    ["webhook", "outcome"],
)
WEBHOOK_WAITING = Gauge(
    "matyan_webhook_waiting_notices",
    "What a webhook is still to be told, as far as it is held in memory (1,000 at most)",
    ["webhook"],
)

# --- jobs ----------------------------------------------------------------------------------------

JOB_RUNS = Counter(
    "matyan_job_runs_total",
    "Runs of a job by their outcome: ok, found (something is left for a person), busy (another process "
    "runs it), lock_lost, failed",
    ["job", "outcome"],
)
JOB_DONE = Counter("matyan_job_done_total", "What a job has done", ["job", "what"])
JOB_SECONDS = Gauge("matyan_job_last_duration_seconds", "How long the last run took", ["job"])
JOB_LAST = Gauge(
    "matyan_job_last_success_timestamp_seconds", "When a run last came to its end", ["job"]
)

_HTTP: Final = (HTTP_REQUESTS, HTTP_SECONDS, TLS_EXPIRES, TLS_HANDSHAKES)
_FDB: Final = (FDB_COMMIT_SECONDS, FDB_READ_SECONDS, FDB_TXN_BYTES, FDB_ERRORS)
_FRONTIER: Final = (
    *_HTTP,
    *(WS_CONNECTIONS, WS_MESSAGES, WS_CONNECTION_SECONDS, FRAMES, REJECTED),
    *(ACK_SECONDS, WAITING_FRAMES, OLDEST_WAITING_SECONDS, QUEUE_BYTES, QUEUE_CAPACITY),
    SOCKET_CLOSES,
    *(QUOTA_HELD_FRAMES, QUOTA_HELD_SECONDS, QUOTA_REFUSED),
)
_INGEST: Final = (
    *(INGEST_CONSUMED, INGEST_PROCESSED, INGEST_ERRORS, INGEST_BATCH_SIZE, INGEST_BATCH_SECONDS),
    *(INGEST_TXN_BYTES, INGEST_FDB_RETRIES, COMMIT_SECONDS, END_TO_END_SECONDS, SKIPPED),
    *_FDB,
)
_CONTROL: Final = (
    *(CONTROL_CONSUMED, CONTROL_PROCESSED, CONTROL_ERRORS, CONTROL_SECONDS),
    *(WEBHOOK_DELIVERIES, WEBHOOK_WAITING),
)
_WORKERS: Final = (DEAD_LETTERS, PAUSED_SECONDS, REBALANCES, LAG, STALLED)
_FOLDER: Final = (FOLDER_FREE_BYTES, FOLDER_DISK_BYTES)
_OF: Final[dict[str, tuple[Collector, ...]]] = {
    "frontier": _FRONTIER,
    "ingest-worker": (*_INGEST, *_WORKERS, *_FOLDER),
    "control-worker": (*_CONTROL, *_WORKERS),
    "api": (*_HTTP, *_FDB),
    "job": (JOB_RUNS, JOB_DONE, JOB_SECONDS, JOB_LAST),
}
ERRORS: Final = {"ingest": INGEST_ERRORS, "control": CONTROL_ERRORS}
"""Where a worker counts what it has to try again, by its name."""


def export_only_of(service: str) -> None:
    """For a process that is one service of a deployment: what the other services count is not shown, not even as zeros."""
    own = set(_OF[service])
    for metric in {metric for metrics in _OF.values() for metric in metrics} - own:
        REGISTRY.unregister(metric)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def count_request(method: str, template: str, status: int, seconds: float) -> None:
    """Counts one HTTP request under the route's template, so that labels stay few."""
    labels = (method if method in _METHODS else "other", template, f"{status // 100}xx")
    HTTP_REQUESTS.labels(*labels).inc()
    HTTP_SECONDS.labels(*labels).observe(seconds)
