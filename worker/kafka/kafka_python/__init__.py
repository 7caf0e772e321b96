"""The adapter of kafka-python behind `worker.kafka.port`; `client.py` makes its parts."""
