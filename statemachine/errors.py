"""The errors of the core. Constructors take identifiers and build the message."""


class WorkflowError(Exception):
    """Base of all errors of the core."""


class FactRefused(WorkflowError):
    """A fact is not legal in the state of the run. The checkpoint is unchanged."""

    def __init__(self, fact: str, state: str, reason: str) -> None:
        super().__init__(f"{fact} refused in state '{state}': {reason}")
        self.fact, self.state, self.reason = fact, state, reason


class CheckpointTooNew(WorkflowError):
    """A checkpoint was written by a newer release. A node of that release can continue the run."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"checkpoint has schema_version {found}, this release supports up to {known}")
        self.found, self.known = found, known


class CheckpointUnreadable(WorkflowError):
    """A checkpoint cannot be parsed."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"checkpoint cannot be read: {cause}")


class SharedTextMissing(CheckpointUnreadable):
    """A checkpoint refers to a text that is stored once for many runs, and is not at hand: the beginning of its system
    prompt, or the definition of its agent."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"it refers to the text whose SHA-256 is {digest}, which is not there")
        self.digest = digest
