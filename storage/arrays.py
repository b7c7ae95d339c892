"""The arrays of a built data set (sequences.py), written part after part."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset import USER_ROWS
from storage.item_table import padded
from storage.sequences import ARRAYS, OFFSETS, Fields, read_part
from support.files import replacing


class Growing:
    """A .npy file that grows by rows, without a memory map: a full disk would kill the process."""

    def __init__(self, path: Path, first: np.ndarray) -> None:
        self.file, self.rows = path.open("wb"), 0
        self.dtype, self.shape = first.dtype, first.shape[1:]
        self._header()

    def _header(self):
        # numpy leaves room in it for any number of rows.
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.shape),
        }
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, rows: np.ndarray) -> None:
        """Write more rows."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        self.file.write(rows.data)
        self.rows += len(rows)

    def close(self) -> None:
        """Write how many rows there are."""
        with self.file:
            self.file.seek(0)
            self._header()


def write_arrays(folder: Path, paths: Sequence[Path], fields: Fields) -> None:
    """Write the users and interactions of all parts as arrays, part after part. Raises
    `UserError`."""
    place = folder / ARRAYS
    place.mkdir(exist_ok=True)
    widths = _widths(paths, fields)
    with contextlib.ExitStack() as opened:
        files: dict[str, Growing] = {}

        def append(name: str, rows: np.ndarray) -> None:
            if name not in files:
                target = opened.enter_context(replacing(place / f"{name}.npy"))
                file = files[name] = Growing(target, rows)
                opened.callback(file.close)
            files[name].append(rows)

        for column, entry in fields["users"].items():
            name, unknown = f"users.{column}", np.stack([entry.unknown])
            if unknown.dtype != object:
                append(name, padded(unknown, widths.get(name, 1)))
        # Row 0 is nobody's.
        append(OFFSETS, np.zeros(USER_ROWS + 1, dtype=np.int64))
        total = 0
        for path in paths:
            part = read_part(path, fields)
            append(OFFSETS, total + part.lengths.cumsum())
            total += len(part.items)
            for name, rows in part.arrays().items():
                append(name, padded(rows, widths.get(name, 1)))


def _widths(paths, fields):
    """Values of a row of each column of users that has several: the most of any part."""
    found: dict[str, int] = {}
    for path in paths:
        described = pq.read_schema(path)
        for column in fields["users"]:
            name = f"users.{column}"
            kind = described.field(name).type
            if pa.types.is_fixed_size_list(kind):
                found[name] = max(found.get(name, 1), kind.list_size)
    return found
