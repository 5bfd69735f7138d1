"""Runs on their way into a tracker: from another tracker (`matyan push`, `matyan pull`) or from another program's files (imports).

Whatever a run comes from, it is made into the messages that a client would send (`moved`), and one sender brings these to a target, each
once however often it is interrupted (`sender`, with what it remembers in `ledger`). Nothing here writes a store: a target takes
messages. No printing and no settings; the commands are `cli/move.py`'s and the imports'.

| file | subject |
|---|---|
| moved | a run as messages and blobs, and how they become frames |
| ledger | what a target has acknowledged, in a file of the sender's |
| target | what a place is that takes runs; what it said to a frame |
| url | a tracker or a frontier at a URL (`websocket`: the client's side of a socket) |
| folder | a data folder, whether somebody holds it or not |
| sender | the runs, several at once, to one target |
| stored | a run of a store, as its readers see it |
"""
