"""Embeddings without a model: each sequence of two or three characters is hashed to a dimension and a sign.

They are deterministic, so that the demo and the tests can be repeated. Texts of similar spelling get similar vectors;
similar meaning has no effect.
"""

from __future__ import annotations

import base64
import hashlib
import math
from array import array
from functools import lru_cache
from typing import Any

EMBEDDING_MODEL_NAME = "aura-hashing"
DIMENSIONS = 256


def embedding(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit vector of the text. Texts that share parts of words have similar vectors."""
    vector = [0.0] * dimensions
    for word in text.casefold().split():
        marked = f" {word} "
        for size in (2, 3):
            for start in range(len(marked) - size + 1):
                dimension, sign = _hash_to_dimension(marked[start : start + size])
                vector[dimension % dimensions] += sign
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


@lru_cache(maxsize=50_000)
def _hash_to_dimension(piece: str) -> tuple[int, int]:
    digest = hashlib.blake2b(piece.encode("utf-8", "replace"), digest_size=4).digest()
    return int.from_bytes(digest[:3], "big"), 1 if digest[3] & 1 else -1


def create_response(body: Any) -> dict[str, Any]:
    """The response body of `/v1/embeddings`. Raises `ValueError` where the request body is invalid."""
    given = body.get("input") if isinstance(body, dict) else None
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("input must be a text or a list of texts, none of them empty")
    dimensions = body.get("dimensions") or DIMENSIONS
    wants_base64 = body.get("encoding_format") == "base64"
    data = []
    for index, text in enumerate(texts):
        vector = embedding(text, dimensions)
        encoded: Any = base64.b64encode(array("f", vector).tobytes()).decode() if wants_base64 else vector
        data.append({"object": "embedding", "index": index, "embedding": encoded})
    tokens = sum(len(text) // 4 + 1 for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": body.get("model") or EMBEDDING_MODEL_NAME, "data": data, "usage": usage}
