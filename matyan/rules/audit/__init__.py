"""What must hold between the rows of a store, whoever wrote them and whatever damaged them: found, told, and mended where
other rows say what is right.

A walk (`walk.py`) goes over the rows in pages and names suspects: places that look wrong. Each is judged (`judges.py`) in one
transaction that reads again all that decides it, so that workers may write meanwhile. A judge that may mend writes in that same
transaction, and only what can be derived; what a reader sees stays as it is, unless it was wrong. How points are stored, and what
must hold among them, is `sequences/audit.py`'s.

No engine, no clock and no printing: when pages are read, and what is done with findings, is the callers' affair.
"""
