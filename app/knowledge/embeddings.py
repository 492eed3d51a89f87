"""Embeddings, through the `openai` client: any server that has `/v1/embeddings` (`workspace.Embeddings`)."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence

import openai
from openai import AsyncOpenAI

from app.errors import ModelError

_CHARACTERS = 6000
"""Of a text: models read 8,192 tokens at most, and a Korean syllable may be more than one."""


def label(name: str, dimensions: int | None) -> str:
    """What tells vectors apart: those of one label can be compared."""
    return name if dimensions is None else f"{name}:{dimensions}"


class OpenAIEmbeddings:
    """One embedding model on one server. Retries are the caller's business, so the client makes none."""

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        base_url: str | None = None,
        dimensions: int | None = None,
        timeout_seconds: float = 20,
    ) -> None:
        """`dimensions` are asked for only where they are given: few models can shorten their vectors."""
        self.model = label(name, dimensions)
        self._name = name
        self._dimensions = dimensions
        self._client = AsyncOpenAI(api_key=api_key, base_url=base_url, max_retries=0, timeout=timeout_seconds)

    async def close(self) -> None:
        await self._client.close()

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        asked = [text[:_CHARACTERS] or " " for text in texts]
        try:
            answer = await self._client.embeddings.create(
                model=self._name, input=asked, dimensions=openai.omit if self._dimensions is None else self._dimensions
            )
            vectors = [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]
            if len(vectors) != len(asked) or not all(vectors):
                raise ValueError("not a vector for each text")
            return await asyncio.to_thread(lambda: [quantised(vector) for vector in vectors])
        except openai.APIStatusError as error:
            # a wrong key or a wrong name may be put right: only what is wrong with the texts will not change
            is_final = error.status_code in (400, 413, 422)
            cause = f"the embeddings endpoint answered {error.status_code}"
            raise ModelError("refused" if is_final else "unavailable", cause) from error
        except openai.OpenAIError as error:
            raise ModelError("unavailable", f"no embeddings: {type(error).__name__}") from error
        except (AttributeError, TypeError, ValueError) as error:  # HTML of a proxy, NaN, an empty list
            raise ModelError("unavailable", "the embeddings endpoint answered something else") from error


def quantised(vector: Sequence[float]) -> bytes:
    """A signed byte a dimension: a quarter of the size, and directions (cosines) hardly move."""
    largest = max(map(abs, vector)) or 1.0
    scale = 127 / largest
    return array("b", [round(value * scale) for value in vector]).tobytes()
