"""Everything `aura demo` and the tests stand on: real parts on this machine, nothing installed. The service never
imports it."""
