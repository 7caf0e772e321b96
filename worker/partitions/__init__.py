"""One partition's work in one tenure: what has been read, what is acknowledged, and how long we may write.

In: slices of micro-batches and their receipts. Out: the offset that may be committed. The poll thread settles; receipts
come on the threads of the producers.
"""
