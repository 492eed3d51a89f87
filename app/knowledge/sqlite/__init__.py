"""The search index embedded in the process: SQLite with full-text and vector search."""
