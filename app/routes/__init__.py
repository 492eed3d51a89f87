"""HTTP (§1): parse, authorise, call one service method, answer."""
