"""The local services that `aura demo` and the tests use: a Redis server and stand-ins for the other services.

Everything runs on this machine. The service never imports this package."""
