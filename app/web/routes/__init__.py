"""The routes of CONTRACT §1: each parses and authorises a request, calls a service and builds the response."""
