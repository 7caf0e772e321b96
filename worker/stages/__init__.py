"""The steps between a record and its outputs, in order: decode, encode, batch, fuse, publish.

In: accepted entries. Out: records to the client, each with a receipt. Decoding runs on the poll thread; encode, compute
and publish have a thread each, with bounded queues between them.
"""
