"""Adapters for other services: the tasks of the Main Service (§6)."""
