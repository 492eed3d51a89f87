"""What the tests stand on: the real service on a real socket, a real Redis, the scripted model behind real HTTP."""
