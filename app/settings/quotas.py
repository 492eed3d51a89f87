"""The quotas of users and tenants (`app/redis/quotas.py` counts them)."""

from __future__ import annotations

from pydantic import BaseModel, Field


class QuotaSettings(BaseModel):
    """How much one user and one tenant may use, counted in Redis over all processes; more gets 429. 0 is no limit."""

    aura_runs_per_minute_user: int = Field(default=60, ge=0, description="runs that a user may start in a minute")
    aura_runs_per_minute_tenant: int = Field(default=1200, ge=0, description="runs that a tenant may start in a minute")
    aura_max_runs_per_user: int = Field(default=50, ge=0, description="runs of a user under way, waiting ones included")
    aura_max_waiting_per_user: int = Field(
        default=20, ge=0, description="runs of a user that wait for an approval; further calls are refused to the model"
    )
    aura_stored_megabytes_user: float = Field(default=64, ge=0, description="stored events and checkpoints of a user")
    aura_stored_megabytes_tenant: float = Field(
        default=2048, ge=0, description="stored events and checkpoints of a tenant"
    )
    aura_max_streams_per_user: int = Field(default=50, ge=0, description="open streams of a user")


NO_QUOTAS = {name.upper(): "0" for name in QuotaSettings.model_fields}
"""The environment that turns every quota off, for measurements and experiments that start thousands of runs."""
