"""The documents that describe the HTTP interface: OpenAPI, the events as JSON Schema, the types of the clients.

All of them are derived from the types that the service runs with, so nothing is described twice.
"""
