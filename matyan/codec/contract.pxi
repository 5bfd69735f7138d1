# The contract's limits and names (its section 6), each stated once: the codec judges by them, and Python modules
# import them from `matyan._codec`. Limits that no byte of a message is judged by (frames, budgets) stand with their users.

cpdef enum:
    MAX_RECORD_BYTES = 900 * 1024  # of a message, as its record in the broker
    MAX_KEY_BYTES = 4096
    MAX_VALUE_BYTES = 100000       # of one stored value
    MAX_HPARAMS_BYTES = 4000000    # of all that one log_hparams stores
    MAX_NAME_BYTES = 512           # of a sequence, a tag or an experiment
    MAX_BLOB_KEY_BYTES = 1024      # S3's limit
    MAX_RUN_ID_BYTES = 128
    MAX_ITEMS = 10000              # of a frame
    MAX_DEPTH = 64                 # of JSON
    CHUNK_POINTS = 1024            # the most that one chunk holds

# The sequences of the run's own logs, in the empty context.
LINES = "logs"
LOG_RECORDS = "__log_records"

# Names by which the store marks a scalar, an empty object and an empty array in a tree; and a run's blobs, at the top of it.
LEAF = "__leaf__"
EMPTY_DICT = "__empty_dict__"
EMPTY_LIST = "__empty_list__"
BLOBS = "__blobs__"
