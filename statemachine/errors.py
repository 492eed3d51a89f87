"""What the core raises. Constructors take identifiers and build the message."""


class WorkflowError(Exception):
    """Base of everything the core raises."""


class FactRefused(WorkflowError):
    """A fact that the machine does not accept where it stands; the checkpoint is unchanged."""

    def __init__(self, fact: str, state: str, reason: str) -> None:
        super().__init__(f"{fact} refused in state '{state}': {reason}")
        self.fact, self.state, self.reason = fact, state, reason


class CheckpointTooNew(WorkflowError):
    """A checkpoint written by a newer release; a newer node can go on with it."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"checkpoint has schema_version {found}, this release knows up to {known}")
        self.found, self.known = found, known


class CheckpointUnreadable(WorkflowError):
    """A checkpoint that does not parse."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"checkpoint cannot be read: {cause}")
