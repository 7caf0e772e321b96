"""Encoders with weights, from local model directories. Needs the extra `encoders`; never reaches for a hub."""
