"""Domain events that become knowledge the agent can search (§7)."""
