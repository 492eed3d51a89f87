"""The HTTP interface (CONTRACT §1, §2): authentication, validation, routes, responses, SSE, OpenAPI."""
