"""The bench, `python -m tests.bench`: figures, no verdict on time. Every stream is checked while it is measured."""
