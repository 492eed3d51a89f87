"""The log of domain events and its index, which the agent can search (§7)."""
