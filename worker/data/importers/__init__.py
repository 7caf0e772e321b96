"""From other people's files to files of items and events (`align-worker import`)."""

from worker.data.importers.output import Imported, NothingImportedError, TitledItem, save

__all__ = ["Imported", "NothingImportedError", "TitledItem", "save"]
