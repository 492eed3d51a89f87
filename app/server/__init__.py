"""The process: Hypercorn, the listening socket, graceful shutdown and the supervisor of several workers."""
