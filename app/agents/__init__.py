"""Named agents: the file that defines them, its checks, the choice for a run, and reading it again (`README.md`)."""
