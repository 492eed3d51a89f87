"""The core that decides: states, facts in, events and effects out. No I/O, no clock, no await."""
