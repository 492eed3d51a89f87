"""Ended runs in PostgreSQL: the copying, the reading, the retention and the erasure."""
