"""Catalogues and events at rest: files in the wire schema, and the arrays that training and evaluation work on."""

from worker.data.dataset import Dataset, Features, Interactions
from worker.data.load import LeftOut, Loaded, load_dataset
from worker.data.split import Split, split_by_time

__all__ = ["Dataset", "Features", "Interactions", "LeftOut", "Loaded", "Split", "load_dataset", "split_by_time"]
