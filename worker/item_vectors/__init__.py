"""The item vectors that others are made of: read back from their topic, looked up, waited for.

In: the topic of item vectors. Out: a table on the device, and the users or items that a change concerns. The thread
"catalogue" reads; the poll thread asks who is concerned; compute looks vectors up.
"""
