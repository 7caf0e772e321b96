"""Vectors out of their topics into an index: records in, rows of a store out, each only where it is newer.

`loop.py` owns the loop (poll thread) and the writer (its own thread); `port.py` is what it asks of a store, and each
kind of store is a file: a sixth is another one, named in `kinds.py`. `row.py` says which of two rows is the newer.
"""
