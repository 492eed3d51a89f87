"""Embeddings by the `openai` client, from any server that has `/v1/embeddings` (`ports.knowledge.Embeddings`)."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence

import httpx2
import openai
from openai import AsyncOpenAI

from app.errors import ModelError

_MAX_TEXT_CHARACTERS = 6000
"""Models read at most 8,192 tokens, and a Korean syllable may be more than one token."""


def label(name: str, dimensions: int | None) -> str:
    """Returns the label of a model's vectors. Only vectors of the same label can be compared."""
    return name if dimensions is None else f"{name}:{dimensions}"


class OpenAIEmbeddings:
    """One embedding model on one server. The caller retries, so the client does not."""

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        base_url: str,
        dimensions: int | None = None,
        timeout_seconds: float = 20,
    ) -> None:
        """`base_url` may have a query, which each request gets (`?api-version=…`).

        `dimensions` are requested only if they are given, because few models can shorten their vectors.
        """
        url = httpx2.URL(base_url)
        self.model = label(name, dimensions)
        self._name = name
        self._dimensions = dimensions
        self._client = AsyncOpenAI(
            api_key=api_key,
            base_url=url.copy_with(query=None),
            default_query=dict(url.params),
            max_retries=0,
            timeout=timeout_seconds,
        )

    async def close(self) -> None:
        await self._client.close()

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        inputs = [text[:_MAX_TEXT_CHARACTERS] or " " for text in texts]
        try:
            response = await self._client.embeddings.create(
                model=self._name, input=inputs, dimensions=openai.omit if self._dimensions is None else self._dimensions
            )
            vectors = [item.embedding for item in sorted(response.data, key=lambda item: item.index)]
            if len(vectors) != len(inputs) or not all(vectors):
                raise ValueError("not a vector for each text")
            return await asyncio.to_thread(lambda: [quantise(vector) for vector in vectors])
        except openai.APIStatusError as error:
            # Final only if the texts are wrong: an operator may correct a wrong key or a wrong model name.
            is_final = error.status_code in (400, 413, 422)
            cause = f"the embeddings endpoint responded with HTTP {error.status_code}"
            raise ModelError("refused" if is_final else "unavailable", cause) from error
        except openai.OpenAIError as error:
            raise ModelError("unavailable", f"no embeddings: {type(error).__name__}") from error
        except (AttributeError, TypeError, ValueError) as error:  # such as HTML from a proxy, NaN, or an empty list
            raise ModelError(
                "unavailable", "the embeddings endpoint sent a response without valid embeddings"
            ) from error


def quantise(vector: Sequence[float]) -> bytes:
    """Returns a signed byte for each dimension: a quarter of the size, and nearly the same direction (cosine)."""
    largest = max(map(abs, vector)) or 1.0
    scale = 127 / largest
    return array("b", [round(value * scale) for value in vector]).tobytes()
