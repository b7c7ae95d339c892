"""Data sets on other file systems, as in `--dataset "s3://bucket/events/*.parquet"`.

pyarrow opens them: s3, gs, abfs, hdfs. Their files are copied to the folder of the build, where
the steps of a build read them as any other files.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pyarrow import ArrowException, fs

from storage.workers import Map
from support.errors import UserError, require
from support.files import replacing

BLOCK = 1 << 24  # bytes copied at once


def is_remote(dataset: str) -> bool:
    """Whether --dataset names another file system."""
    return re.match(r"[a-z][a-z0-9+.-]+://", dataset) is not None


@dataclass(frozen=True)
class Remote:
    """The files of an address, in order: path, size in bytes, time of the last change (ns).

    base: the folder of all of them. name: what is to be read of it; '' for all of its files.
    """

    address: str
    base: str
    name: str
    files: Sequence[tuple[str, int, int]]

    @classmethod
    def of(cls, address: str) -> "Remote":
        """A file, all files of a folder, or those that fit a pattern with *. Raises `UserError` if
        there is none."""
        system, place = _opened(address)
        base, name = place, ""
        if "*" in place:
            base = place[: place.index("*")].rpartition("/")[0]
            name = place.removeprefix(base).lstrip("/")
        try:
            found = [system.get_file_info(base)]
            if found[0].is_file:
                base, _, name = place.rpartition("/")
            else:
                chosen = fs.FileSelector(
                    base, allow_not_found=True, recursive="/" in name
                )
                found = system.get_file_info(chosen)
        except (OSError, ArrowException) as error:
            raise _unreadable(address, error) from error
        files = [
            (info.path, info.size, info.mtime_ns)
            for info in sorted(found, key=lambda info: info.path)
            if info.is_file and _fits(info.path, place)
        ]
        require(files, f"--dataset {address}: no such file or folder")
        return cls(address, base, name, files)

    def copied(self, folder: Path, spread: Map) -> str:
        """Copy the files to a folder, and say by which --dataset they are read there. What is there
        stays."""
        folder = folder / PurePosixPath(self.base).name
        copy = functools.partial(self.copy, folder)
        for _ in spread(copy, range(len(self.files))):
            pass
        return str(folder / self.name)

    def copy(self, folder: Path, number: int) -> None:
        """Copy one file."""
        path, size, _ = self.files[number]
        target = folder / path.removeprefix(self.base).lstrip("/")
        if target.exists() and target.stat().st_size == size:
            return
        system, _ = _opened(self.address)
        with replacing(target) as part, part.open("wb") as copy:
            for block in _blocks(system, path):
                copy.write(block)


def _blocks(system, path):
    """The bytes of a file."""
    try:
        with system.open_input_stream(path, compression=None) as source:
            while block := source.read(BLOCK):
                yield block
    except (OSError, ArrowException) as error:
        raise _unreadable(path, error) from error


def _fits(path, pattern):
    if "*" not in pattern:
        return True
    path, pattern = PurePosixPath(path), PurePosixPath(pattern)
    return len(path.parts) == len(pattern.parts) and path.match(str(pattern))


def _opened(address):
    """(file system, path) of an address."""
    try:
        system, place = fs.FileSystem.from_uri(address)
    except (OSError, ValueError, ArrowException) as error:
        raise _unreadable(address, error) from error
    return system, place.rstrip("/")


def _unreadable(address, error):
    reason = " ".join(str(error).split())[:300]
    return UserError(
        f"--dataset {address}: {reason}; check address and rights"
    )
