"""The search index on a PostgreSQL server with pgvector, shared by all replicas."""
