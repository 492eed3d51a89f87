"""The operator page: its static files."""
