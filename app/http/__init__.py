"""HTTP transports for outgoing requests. They know nothing of models or services."""
