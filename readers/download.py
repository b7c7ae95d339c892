"""Fetch a MovieLens archive from GroupLens, checked by md5 and unpacked atomically:
`python -m readers.download ml-1m`."""

import hashlib
import http.client
import io
import os
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from support.errors import UserError, is_of_disk, require, run_command

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 20


# address, published checksum, and one of the files in it that the reader needs
ARCHIVES = {
    "ml-1m": (
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        "c4d9eecfca2ab87c1945afe126590906",
        "ratings.dat",
    ),
    "ml-100k": (
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        "0e33842e24a9c977be4e0107933c0723",
        "u.data",
    ),
}

LICENCE = (
    "MovieLens data: (c) GroupLens, University of Minnesota. For research use; no "
    "redistribution without "
    "permission, no commercial use. Cite F. M. Harper and J. A. Konstan, The MovieLens "
    "Datasets: History and "
    "Context, ACM TiiS 5(4), 2015. The README in the data folder has the full terms."
)


class DataUnavailable(UserError):
    """The data set is not on disk and cannot be downloaded."""


def data_folder(dataset: str, data_dir: str | None = None) -> Path:
    """Folder with the raw files of a data set, downloaded first if need be.

    Raises `UserError` with the three ways to get the data, or if --data_dir lacks them.
    """
    if dataset not in ARCHIVES:
        require(
            data_dir,
            f"--dataset {dataset} is not downloaded: give --data_dir with its folder",
        )
        return Path(data_dir)
    url, _, needed = ARCHIVES[dataset]
    folder = Path(data_dir or ROOT / dataset)
    if (folder / needed).exists():
        return folder
    require(
        not data_dir,
        f"--data_dir {data_dir} has no {needed}; point it at the folder with the original files "
        f"of {dataset}",
    )
    try:
        _download(dataset, folder)
    except (OSError, http.client.HTTPException) as error:
        if is_of_disk(error):
            raise
        raise DataUnavailable(
            f"{dataset} is not in {folder.name}/ and cannot be downloaded "
            f"({getattr(error, 'reason', error)}). "
            f"Three ways to get it: (1) connect to the internet and run again, it downloads "
            f"{url}; "
            f"(2) unpack that file yourself so that {folder.name}/{needed} exists; "
            f"(3) give --data_dir with the folder that has {needed}. "
            f"To try the code without MovieLens: --dataset synthetic"
        ) from error
    return folder


def _download(dataset, folder):
    """Download, check, unpack beside the target, then move each file into place."""
    url, md5, needed = ARCHIVES[dataset]
    content = _fetch(url)
    digest = hashlib.md5(content).hexdigest()
    if digest != md5:
        raise OSError(
            f"md5 {digest} instead of {md5}: what came is truncated or altered, and "
            f"nothing of it was kept"
        )
    print(LICENCE, file=sys.stderr)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}-"
    ) as scratch:
        zipfile.ZipFile(io.BytesIO(content)).extractall(scratch)
        source = next(Path(scratch).rglob(needed)).parent
        folder.mkdir(exist_ok=True)
        # The file that marks the data set as present comes last, so that an interruption is seen
        # as absence.
        for path in sorted(
            source.iterdir(), key=lambda path: path.name == needed
        ):
            if path.is_file():
                os.replace(path, folder / path.name)


def _fetch(url):
    print(f"downloading {url}", file=sys.stderr, flush=True)
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        return response.read()


def main(argv: list[str]) -> int:
    """Exit code 3 if the data set can be neither found nor downloaded."""
    require(
        len(argv) == 1 and argv[0] in ARCHIVES,
        f"usage: python -m readers.download {'|'.join(ARCHIVES)}",
    )
    try:
        data_folder(argv[0])
    except DataUnavailable as error:
        print(f"note: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
