"""Views of a worker: metrics, probes, logs, status page, and the watchdog that ends one that is stuck.

In: what the loop and the stages report. Out: HTTP answers and log lines. The threads "http" and "watchdog" only look at
what others have left for them.
"""
