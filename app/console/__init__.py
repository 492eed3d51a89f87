"""The operator page: its files (`static/`), and the one-time links that `aura demo` opens it with."""
