"""The loop of one role: poll, accept, settle, commit, and what happens around it when partitions come and go.

In: records from the client, receipts from the stages. Out: entries for the stages, commits. The poll thread; restoring
has a thread of its own, which hands partitions over whole.
"""
