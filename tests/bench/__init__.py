"""The benchmarks, `python -m tests.bench`: they report figures and assert no times. Every stream is checked."""
