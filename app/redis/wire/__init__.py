"""The Redis client: connections, the pipelined protocol, Pub/Sub. It knows nothing of runs."""
