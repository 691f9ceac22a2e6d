"""Files of events: compressed by their suffix, whole or not there, gone on with after an interruption."""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Final, cast

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from k1s0_event_store.exceptions import ConfigurationError, TransferError

_LONGEST_LINE: Final = 1 << 30
"""Above what PostgreSQL can keep in one value: what is longer is no line of an event."""


@dataclass(frozen=True, slots=True)
class Compression:
    """How bytes are kept. Several compressed parts, one after the other, are one file."""

    compress: Callable[[bytes], bytes]
    reading: Callable[[BinaryIO], BinaryIO]
    errors: tuple[type[Exception], ...] = ()

    def lines(self, file: BinaryIO) -> Iterator[bytes]:
        """The lines in a file; raises TransferError where it is damaged."""
        number = 1
        try:
            text = self.reading(file)
            while line := text.readline(_LONGEST_LINE):
                yield line
                number += 1
        except self.errors as exc:
            raise TransferError(f"the compressed file is damaged or cut: {exc}", number) from exc


PLAIN: Final = Compression(bytes, lambda file: file)


def compression_of(path: Path) -> Compression:
    """By the suffix: .gz, .zst, or none; raises ConfigurationError where the extra is missing."""
    if path.suffix == ".gz":
        return Compression(
            partial(gzip.compress, mtime=0), _reading_gzip, (EOFError, gzip.BadGzipFile, zlib.error)
        )
    if path.suffix == ".zst":
        return _zstd(_zstandard())
    return PLAIN


def _reading_gzip(file: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb"))


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as exc:
        raise ConfigurationError(
            "files that end in .zst need an extra: pip install 'k1s0-event-store[zstd]'"
        ) from exc
    return zstandard


def _zstd(zstandard: Any) -> Compression:
    def reading(file: BinaryIO) -> BinaryIO:
        frames = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
        return io.BufferedReader(frames)

    return Compression(
        zstandard.ZstdCompressor(write_checksum=True).compress, reading, (zstandard.ZstdError,)
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far an export is: what of the file is good, and where in the store it goes on.

    `until` is the end that was fixed at the beginning. `last` names the last event that was written:
    a store that does not hold it is not the one that the file was begun with.
    """

    selection: dict[str, Any]
    until: str
    after: str | None = None
    events: NonNegativeInt = 0
    size: NonNegativeInt = 0
    last: tuple[str, str, int, str] | None = None


_NOTE: Final = TypeAdapter(Checkpoint)


class PartFile:
    """A file that gets its name when it is whole; until then it is NAME.part, and NAME.place says how far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._place = path.with_name(f"{path.name}.place")
        if path.exists():
            raise TransferError(f"{path} is there already: remove it, or choose another name")

    def checkpoint(self, resume: bool) -> Checkpoint | None:
        """Where an interrupted export stands; None: there is none. Raises TransferError."""
        if not self._part.exists() or not self._place.exists():
            return None
        if not resume:
            raise TransferError(
                f"{self._part} is an export that was interrupted: resume it, or remove it to begin anew"
            )
        try:
            checkpoint = _NOTE.validate_json(self._place.read_bytes(), strict=True)
        except ValidationError as exc:
            raise TransferError(f"{self._place} is damaged: remove it to begin anew") from exc
        if self._part.stat().st_size < checkpoint.size:
            raise TransferError(f"{self._part} is shorter than it was: remove it to begin anew")
        return checkpoint

    @contextmanager
    def opened(self, size: int) -> Iterator[PartWriter]:
        """The part, cut to what is good of it; gets its name where the block ends well."""
        with self._part.open("ab") as file:
            _lock(file, self._part)
            if os.fstat(file.fileno()).st_size < size:
                raise TransferError(f"{self._part} was changed meanwhile: begin again")
            file.truncate(size)
            yield PartWriter(file, self._place)
            self._part.rename(self._path)
        self._place.unlink(missing_ok=True)


def _lock(file: BinaryIO, path: Path) -> None:
    """Two exports that go on with one part would write it both; the lock ends with the process."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise TransferError(f"another process is writing {path}") from exc


class PartWriter:
    """Writes to the part of a file, and notes how far it is."""

    def __init__(self, file: BinaryIO, place: Path) -> None:
        self._file = file
        self._place = place

    def write(self, data: bytes) -> int:
        """Add bytes, for good; returns the size of the file."""
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def save(self, checkpoint: Checkpoint) -> None:
        """Note a place whose bytes are written; there is the old note or the new one, never half of one."""
        draft = self._place.with_name(f"{self._place.name}.new")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(asdict(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._place)
