"""The documents that describe the HTTP interface: OpenAPI, the events as JSON Schema, the TypeScript types.

All of them are derived from the models that run, so nothing is written down twice.
"""
