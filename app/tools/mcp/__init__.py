"""The tools of MCP servers. Only the modules that connect import the SDK (`mcp`), which is an optional extra."""
