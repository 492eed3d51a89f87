"""What the service says of itself: the types of its JSON answers, its events as JSON Schema and TypeScript, its routes
as OpenAPI. All of it is derived from the models that run; nothing is written down twice."""
