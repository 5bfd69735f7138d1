# The names that a client chooses and that become places: run ids and artifact paths (contract, section 6).
# Names that are only stored are judged by limits.pxi.

import re as _re

_RUN_ID = _re.compile(f"[A-Za-z0-9_.:-]{{1,{MAX_RUN_ID_BYTES}}}")
_CONTROL = _re.compile("[\x00-\x1f\x7f-\x9f]")


def check_run_id(str run):
    if _RUN_ID.fullmatch(run) and run not in (".", ".."):
        return None
    return f"a run id has 1 to {MAX_RUN_ID_BYTES} characters of A-Z a-z 0-9 _ . : - and is not . or .."


def check_artifact_path(str run, str path):
    try:
        size = len(f"{run}/{path}".encode())
    except UnicodeEncodeError:
        return FLAWS[LONE_SURROGATE]
    if size > MAX_BLOB_KEY_BYTES:
        return f"takes {size:,} bytes with its run id; the limit is {MAX_BLOB_KEY_BYTES:,}"
    if _CONTROL.search(path):
        return "holds a control character"
    if {".", ".."} & set(path.split("/")):
        return "holds a segment . or .."
    return None
