"""The embedded index's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.knowledge.sqlite import SqliteIndex
from tests.harness.knowledge import MODEL


async def test_a_file_that_is_no_index_is_named_with_the_remedy(tmp_path: Path) -> None:
    broken = tmp_path / "index.db"
    broken.write_bytes(b"not a database" * 1000)
    for path in (str(broken), str(tmp_path / "missing" / "index.db")):
        index = SqliteIndex(path, MODEL)
        with pytest.raises(ConfigurationError, match=r"AURA_KNOWLEDGE_PATH: .* may be deleted"):
            await index.open(0)
        await index.close()
