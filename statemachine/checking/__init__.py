"""Model checking: proves properties of the transition table and of all runs of `advance()`."""

from statemachine.checking.proof import Proof
from statemachine.checking.search import check

__all__ = ["Proof", "check"]
