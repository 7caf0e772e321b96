"""One process: its parts assembled, started, watched, described, and ended on a signal.

In: settings. Out: a worker that runs until it is told to stop. The main thread; with both roles the loop of users has a
thread of its own.
"""
