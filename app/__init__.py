"""The service around the core: HTTP, Redis, the model, the tools. The decisions are made in `statemachine`."""
