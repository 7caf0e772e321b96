"""The streaming feature-alignment worker. `worker/README.md` describes how the parts fit together."""

__version__ = "0.1.0"
