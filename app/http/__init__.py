"""HTTP transports for outgoing requests. Independent of models and services."""
