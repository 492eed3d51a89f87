"""The routes of CONTRACT §1: each parses and authorises a request, calls one service method and builds the response."""
