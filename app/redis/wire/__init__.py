"""The Redis client: connections, pipelined commands, scripts and Pub/Sub. It knows nothing of runs."""
