"""Items, events and vectors in files: messages of the wire contract, one after another (schemas/README.md, *At rest*).

Files are read and written as streams: what is held in memory is a message, not the file.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import zstandard

from schemas import ItemVector, Message, NewItem, SchemaError, UserEvent, UserVector, decode, encode, split_messages
from worker.errors import DataError

M = TypeVar("M", bound=Message)

CHUNK_BYTES = 256 * 1024
_ZSTANDARD_BYTES = 4 * 1024  # read at a time; they can become 30,000 times as many

# No message begins with one of these bytes: a message is a map.
_GZIP, _ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def read_items(path: Path | str) -> Iterator[NewItem]:
    """The items in a file, as they lie in it. Raises `DataError` at the first that is not valid."""
    return _read(NewItem, Path(path), check_values=True)


def read_events(path: Path | str) -> Iterator[UserEvent]:
    """The events in a file, as they lie in it. Raises `DataError` at the first that is not valid."""
    return _read(UserEvent, Path(path), check_values=False)  # it has no tensors


def read_item_vectors(path: Path | str) -> Iterator[ItemVector]:
    """The vectors in a file, as they lie in it. Raises `DataError` at the first that is not valid."""
    return _read(ItemVector, Path(path), check_values=True)


def read_user_vectors(path: Path | str) -> Iterator[UserVector]:
    """The vectors in a file, as they lie in it. Raises `DataError` at the first that is not valid."""
    return _read(UserVector, Path(path), check_values=True)


def write_items(path: Path | str, items: Iterable[NewItem]) -> int:
    """Write a file of items, compressed if its name ends in `.gz` or `.zst`. Returns how many there are.

    The file appears when it is complete; until then, and if anything fails, whatever had its name stays.
    """
    return write_encoded(path, map(encode, items))


def write_events(path: Path | str, events: Iterable[UserEvent]) -> int:
    """Write a file of events, as `write_items` does."""
    return write_encoded(path, map(encode, events))


def write_encoded(path: Path | str, values: Iterable[bytes]) -> int:
    """The same of messages that are encoded already, of one kind."""
    count = 0
    with replaced(Path(path)) as file:
        for value in values:
            file.write(value)
            count += 1
    return count


def read_text(path: Path | str) -> str:
    """A text file in UTF-8, its line ends as they are. Raises `DataError`."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_text(path, "a text file", error) from None
    except OSError as error:
        raise unreadable(path, error) from None


_OTHERS = (
    (b"\x1f\x8b", "gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "Zstandard: unpack it first"),
    (b"BZh", "bzip2: unpack it first"),
    (b"\xfd7zXZ", "xz: unpack it first"),
    (b"PK\x03\x04", "a zip archive, or a spreadsheet: unpack it, or save it as text, first"),
    (b"PAR1", "Parquet"),
    (b"SQLite format 3", "a SQLite database"),
    (b"\xff\xfe", "text in UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16: save it as UTF-8"),
)


def not_text(path: Path | str, kind: str, error: UnicodeDecodeError) -> DataError:
    """Why a file is not `kind`, "a CSV file": what it is, where its first bytes say so."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(16)
        for mark, name in _OTHERS:
            if head.startswith(mark):
                return DataError(f"{path}: not {kind} in UTF-8: it is {name}")
    byte = error.object[error.start]
    return DataError(f"{path}: not {kind} in UTF-8: it holds the byte 0x{byte:02x}: save it as UTF-8")


def unreadable(path: Path | str, error: OSError) -> DataError:
    """Why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: there is no such file")
    return DataError(f"{path}: cannot be read: {error.strerror or error}")


def read_encoded(message: type[M], path: Path) -> Iterator[tuple[M, bytes]]:
    """Messages with their bytes, as they lie in a file. Raises `DataError` at the first that is not valid."""
    return _read_both(message, path, check_values=True)


def first_fields(path: Path) -> Mapping[str, Any]:
    """The fields of the first message in a file, which may be of any kind. Raises `DataError`."""
    try:
        for data in split_messages(_chunks(path)):
            fields = msgpack.unpackb(data, strict_map_key=False)
            if isinstance(fields, dict):
                return fields
            break
        else:
            raise DataError(f"{path}: there are no messages in it")
    except (SchemaError, ValueError) as error:
        raise DataError(f"{path}: not a file of messages: {error}") from None
    raise DataError(f"{path}: not a file of messages: it does not begin with a map")


def _read(message: type[M], path: Path, check_values: bool) -> Iterator[M]:
    return (found for found, _ in _read_both(message, path, check_values))


def _read_both(message: type[M], path: Path, check_values: bool) -> Iterator[tuple[M, bytes]]:
    number, offset = 1, 0
    try:
        for data in split_messages(_chunks(path)):
            yield decode(message, data, check_values=check_values), data
            number, offset = number + 1, offset + len(data)
    except SchemaError as error:
        raise DataError(f"{path}: {message.__name__} {number}, at byte {offset}: {error}") from None


def _chunks(path: Path) -> Iterator[bytes]:
    """The bytes of the file, decompressed."""
    try:
        with path.open("rb") as file:
            head = file.peek(len(_ZSTANDARD))
            if head.startswith(_GZIP):
                yield from _blocks(gzip.GzipFile(fileobj=file))
            elif head.startswith(_ZSTANDARD):
                yield from _decompressed(file)
            else:
                yield from _blocks(file)
    except (EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the compressed data are damaged or cut off: {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _blocks(file: Any) -> Iterator[bytes]:
    return iter(lambda: file.read(CHUNK_BYTES), b"")


def _decompressed(file: Any) -> Iterator[bytes]:
    """Frame by frame: the reader of the library takes the end of a file that was cut off for the end of the data."""
    frame: Any = None
    while data := file.read(_ZSTANDARD_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = b""
            if frame.eof:
                data, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("the last frame is incomplete")


@contextmanager
def replaced(path: Path) -> Iterator[Any]:
    """A file to write that takes the name `path` once it is complete. A link goes on leading to it, and to a device or
    a pipe it is written as it comes: nothing takes the place of `/dev/null`."""
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            with target.open("wb") as file, _compressed(file, path.suffix) as plain:
                yield plain
            return
        with unfinished.open("wb") as file, _compressed(file, path.suffix) as plain:
            yield plain
        os.replace(unfinished, target)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # it is there only if something failed, which is then the error to show
            unfinished.unlink()


def _compressed(file: Any, suffix: str) -> Any:
    if suffix == ".gz":
        # Neither name nor time: the same messages make the same file.
        return gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0)
    elif suffix == ".zst":
        return zstandard.ZstdCompressor().stream_writer(file)
    return file
