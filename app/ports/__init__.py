"""What the engine needs of the world, as Protocols by subject; adapters keep their promises.

Adapters translate the errors of their drivers: only the errors of `app.errors` reach the engine.
"""
