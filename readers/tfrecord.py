"""TFRecord files of `tf.train.Example`, read without TensorFlow.

A record is its length (8 bytes, little-endian), a checksum of the length (4), the data, and a
checksum of the data (4): https://www.tensorflow.org/tutorials/load_data/tfrecord. The data are a
protocol buffer: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/.
"""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

CASTAGNOLI = 0x82F63B78  # polynomial of CRC-32C, reflected
MASK_DELTA = 0xA282EAD8
# Wire types of protocol buffers.
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3  # fields of a Feature


def read_tfrecord(path: Path) -> pd.DataFrame:
    """A row for each example, a column for each feature: its value, or a list if an example has
    several.

    Bytes are text in UTF-8. Raises `ValueError` naming the damaged record, from 1.
    """
    rows = []
    for number, data in enumerate(_records(path), start=1):
        try:
            rows.append(_example(data))
        except (ValueError, IndexError, struct.error) as error:
            raise ValueError(
                f"record {number} is no tf.train.Example ({error})"
            ) from error
    frame = pd.DataFrame(rows)
    for name, values in frame.items():
        lengths = values.str.len()
        if lengths.max() <= 1:
            frame[name] = values.str[0]
    return frame


def _records(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        number = 1
        while head := file.read(12):
            size, checksum = struct.unpack("<QI", head.ljust(12, b"\0"))
            if len(head) < 12 or _masked(_crc(head[:8])) != checksum:
                raise ValueError(
                    f"record {number} has no length: not TFRecord, or damaged"
                )
            data = file.read(size + 4)
            if len(data) < size + 4:
                raise ValueError(f"record {number} is cut off")
            yield data[:-4]
            number += 1


def _table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = _table()


def _crc(data):
    value = 0xFFFFFFFF
    for byte in data:
        value = CRC_TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _masked(crc):
    """A checksum in the form that TFRecord stores."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def _example(data: bytes) -> dict[str, list[Any]]:
    """Feature -> values. An Example has one field, Features; that has a map of them."""
    found = {}
    for _, features in _fields(data):
        for _, entry in _fields(features):
            parts = dict(_fields(entry))
            found[parts[1].decode()] = _values(parts.get(2, b""))
    return found


def _values(feature: bytes) -> list[Any]:
    """The values of a Feature: bytes, floats or whole numbers."""
    values: list[Any] = []
    for kind, content in _fields(feature):
        for _, part in _fields(content):
            if kind == BYTES_LIST:
                values.append(part.decode())
            elif kind == FLOAT_LIST:
                values += struct.unpack(f"<{len(part) // 4}f", part)
            elif isinstance(part, int):  # not packed
                values.append(_signed(part))
            else:
                values += _packed(part)
    return values


def _packed(data):
    values, place = [], 0
    while place < len(data):
        value, place = _varint(data, place)
        values.append(_signed(value))
    return values


def _signed(value):
    return value - (1 << 64) if value >> 63 else value


def _varint(data, place):
    """(value, place after it): seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        shift += 7
        if byte < 0x80:
            return value, place


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = _varint(data, place)
        elif wire in (BYTES, FIXED_32, FIXED_64):
            size = {FIXED_32: 4, FIXED_64: 8}.get(wire)
            if size is None:
                size, place = _varint(data, place)
            value = data[place : place + size]
            if len(value) < size:
                raise ValueError("cut off")
            place += size
        else:
            raise ValueError(f"wire type {wire}")
        yield number, value
