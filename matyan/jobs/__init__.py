"""Jobs: what keeps a store and its blobs in order beside the workers, once or again and again.

A job asks whoever has the store open (`served.py` answers), in steps that are short transactions each, and stops as soon as its
lock is lost (`lock.py`). `runner.py` runs any of them: the lock, the loop, the limit, progress and the summary. No flags and no
engines: those are the command line's.
"""
