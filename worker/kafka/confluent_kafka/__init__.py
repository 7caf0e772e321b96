"""The adapter of confluent-kafka, and so of librdkafka, behind `worker.kafka.port`; `client.py` makes its parts."""
