"""Learning a space from items and events: `align-worker train`. Knows torch, and no Kafka.

`README.md` beside this file has the recipe, and what each part of it is worth.
"""
