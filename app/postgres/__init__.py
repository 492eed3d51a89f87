"""PostgreSQL, as the index, the copy of the record of decisions and the archive use it."""
