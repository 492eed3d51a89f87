"""What all stored values have in common: JSON, its digest, and the base of the structs that are saved."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

JsonObject = dict[str, Any]
"""JSON whose shape this project does not define: tool arguments, chat messages, the context of the user's screen."""

# One encoder for all calls: `json.dumps` would build one for each.
_encode_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def canonical_json(value: object) -> str:
    """Return the canonical JSON text of a value: sorted keys, no spaces. Digests are computed from it."""
    return _encode_canonical(value)


def digest(value: object) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of a value. An approval is bound to the digest of arguments."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


class StoredStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of everything that is saved. Loading checks the types and rejects unknown fields.

    A field that has its default is not written, which is a fifth of a checkpoint. So a default is a part of the schema
    and never changes. A field that other systems read (CONTRACT §5) has a `default_factory`: it is always written.
    """

    def to_json_object(self) -> JsonObject:
        """Return every field as JSON, also those that have their default."""
        return {name: _as_json(getattr(self, name)) for name in self.__struct_fields__}


def _as_json(value: Any) -> Any:
    return value.to_json_object() if isinstance(value, StoredStruct) else msgspec.to_builtins(value)
