"""`python -m app` is `aura`."""

from app.cli import main

main()
