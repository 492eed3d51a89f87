"""The operator page, as static files."""
