"""Catalogues and events at rest: files in the wire schema, and the arrays that training and evaluation work on."""

from worker.data.dataset import Dataset, Features, Interactions
from worker.data.split import Split, split_by_time

__all__ = ["Dataset", "Features", "Interactions", "Split", "split_by_time"]
