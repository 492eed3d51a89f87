"""The core: given a checkpoint, a fact and the time, it decides the next step. It does no I/O and reads no clock."""
