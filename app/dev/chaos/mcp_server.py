"""The MCP server of an experiment, a program of its own: `python -m app.dev.chaos.mcp_server PORT JOURNAL`.

Its tool writes a note, slowly, with the official SDK and over streamable HTTP. The journal is a file with one line for
each call that has begun, for each note that is written, and for each call that has ended; a kill loses none of them.
"""

from __future__ import annotations

import os
import sys

from mcp.server.mcpserver import MCPServer

from app.dev.chaos.delays import delayed
from app.dev.chaos.mcp_journal import Entry, line_of
from app.dev.chaos.plan import MCP_SERVER, MCP_SERVER_TOOL

HOST = "127.0.0.1"


class NoteServer:
    """The tool of the server. `descriptor` is that of the journal, which is only appended to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def add_note(self, reference: str, text: str) -> str:
        """Write a note."""
        self._append(Entry.BEGUN, reference)
        async with delayed(f"{reference} {text}"):
            self._append(Entry.WRITTEN, reference)
        self._append(Entry.ENDED, reference)
        return f"written: {reference}"

    def _append(self, entry: Entry, reference: str) -> None:
        os.write(self._descriptor, line_of(entry, reference))


def main(port: int, journal: str) -> None:
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    server = MCPServer(MCP_SERVER, version="1", log_level="CRITICAL")
    server.add_tool(NoteServer(descriptor).add_note, name=MCP_SERVER_TOOL)
    server.run("streamable-http", host=HOST, port=port)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
