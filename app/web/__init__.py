"""HTTP (CONTRACT §1, §2): authentication, validation, routes, responses, SSE and the OpenAPI document."""
