"""How good vectors are: questions put to a model, rankings judged, baselines to compare with. Knows no Kafka."""
