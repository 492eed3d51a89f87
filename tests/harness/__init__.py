"""The environment of the tests: the real service on a real socket, a real Redis, the scripted model behind HTTP."""
