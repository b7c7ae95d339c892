"""What is malformed is answered by a line with exit code 2, whatever it is: a table of kinds of
files, schemas, settings, flags, checkpoints, states and requests."""

import gzip
import re
import time

import pytest

from readers import read
from support.errors import UserError

HEAD = "user,item,time\n"
ROWS = "".join(
    f"{user},{item},{user * 9 + item}\n"
    for user in range(1, 6)
    for item in (3, 4, 5)
)
LINE = '{"user": 1, "item": 2}\n'

# name of the file: (content, what the answer must name)
FILES = {
    "empty.csv": ("", "empty"),
    "header.csv": (HEAD, "no rows|empty|no interactions"),
    "one_field.csv": ("user\n1\n2\n", "item"),
    "twice.csv": ("user,item,user\n1,2,3\n", ":1.*'user'"),
    "long_row.csv": (HEAD + ROWS + "1,2,3,4\n", ":17"),
    "quote.csv": (HEAD + ROWS + '1,"2,3\n', ":17|EOF inside string"),
    "time_text.csv": (HEAD + ROWS + "1,2,soon\n", ":17.*soon"),
    "time_nan.csv": (HEAD + ROWS + "1,2,inf\n", ":17.*inf"),
    "time_huge.csv": (HEAD + ROWS + "1,2,1e30\n", r":17.*1e\+30"),
    "time_negative.csv": (HEAD + ROWS + "1,2,-5\n", ":17.*-5"),
    "time_mixed.csv": (
        HEAD + "1,2,978300060\n1,3,978300060000\n" * 9,
        "978300060",
    ),
    "date_13.csv": (HEAD + "1,2,2020-13-01\n1,3,2020-12-01\n", "2020-13-01"),
    "date_31.csv": (HEAD + "1,2,31/02/2020\n1,3,01/03/2020\n", "31/02/2020"),
    "id_nan.csv": (HEAD + "nan,2,1\n" * 9, "nan"),
    "binary.csv": (b"\x00\x01\x02" * 100, "binary"),
    "zeros.csv": (HEAD.encode() + b"1,2,3\n\x00\x00\x00", "binary"),
    "image.csv": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "binary"),
    "zip.csv": (b"PK\x03\x04\x14\x00\x00\x00", "binary"),
    "no_gzip.csv.gz": ("user,item\n1,2\n", "gz"),
    "cut.csv.gz": (gzip.compress((HEAD + ROWS * 99).encode())[:-20], "cut"),
    "no_zstd.csv.zst": ("user,item\n1,2\n", "zst"),
    "no.parquet": ("user,item\n1,2\n", "no.parquet"),
    "cut.parquet": (b"PAR1" + b"\0" * 50, "cut.parquet"),
    "empty.parquet": ("", "empty.parquet"),
    "cut.jsonl": (LINE * 3 + '{"user": 1, "it', "cut.jsonl"),
    "list.jsonl": ("[1, 2, 3]\n", "list.jsonl"),
    "number.jsonl": ("1\n2\n", "number.jsonl"),
    "text.jsonl": ("hello\n", "text.jsonl"),
    "null.jsonl": ("null\n", "null.jsonl"),
    "deep.jsonl": ('{"user": ' + "[" * 100_000 + "\n", "deep.jsonl"),
    "digits.jsonl": (
        '{"user": 1, "item": ' + "9" * 5000 + "}\n",
        "digits.jsonl",
    ),
    "empty.jsonl": ("", "empty.jsonl"),
    "objects.jsonl": (
        '{"user": {"a": 1}, "item": [1, 2]}\n' * 5,
        "objects.jsonl",
    ),
    "empty.inter": ("", "empty.inter"),
    "untyped.inter": ("a\tb\n1\t2\n", "user"),
    "long.inter": ("user_id:token\titem_id:token\n1\t2\t3\n", "more fields"),
    "cut.tfrecord": (b"\x05\x00\x00\x00\x00\x00\x00\x00", "record 1"),
    "text.tfrecord": ("user,item\n1,2\n", "record 1"),
    "empty.tfrecord": ("", "empty"),
    "empty.txt": ("", "empty"),
    "alone.txt": ("1 2 3\n2\n3 4 5 6\n", ":2"),
    "users.txt": ("1\n2\n3\n", "users.txt"),
    "blank.txt": ("   \n\n", "blank.txt"),
    "latin.csv": (HEAD.encode() + b"\xff\xfe\x00,1,1\n", "latin.csv"),
    "utf16_cut.csv": (b"\xff\xfeu\x00s\x00e", "utf16_cut.csv"),
    "roles.csv": ("a,b,c\nx,y,z\nx,w,z\n", "--columns"),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    content, wanted = FILES[name]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        read(str(path))
    message = str(error.value)
    assert name in message and re.search(wanted, message), message
    assert time.monotonic() - began < 5
