"""The shell that does: HTTP, Redis, the model, the tools. Everything that decides is in `statemachine`."""
