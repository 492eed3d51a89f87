"""Chat completions: the request, its streamed response and the chunks of that stream."""
