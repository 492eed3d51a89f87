"""Everything that is kept in Redis, and the only code that speaks to it."""
