"""Wires the model servers of the settings."""

from __future__ import annotations

from app.model.chat import OpenAIModel
from app.model.fallbacks import FallbackModel
from app.settings import Settings


def make_model(settings: Settings) -> OpenAIModel | FallbackModel:
    """Build the one model server of the settings, or several that stand in for each other."""
    models = make_models(settings)
    return models[0] if len(models) == 1 else FallbackModel(models)


def make_models(settings: Settings) -> list[OpenAIModel]:
    """Build a client for each model server of the settings, in their order. The caller closes them."""
    return [
        OpenAIModel(
            server.model,
            api_key=server.api_key.get_secret_value() if server.api_key else None,
            base_url=server.base_url,
            timeout_seconds=settings.aura_model_timeout_seconds,
            logprobs=settings.aura_model_logprobs,
            options=settings.aura_model_options,
            done_is_whole=settings.aura_model_done_is_whole,
            secrets=settings.secrets,
            is_main=server.base_url == settings.model_servers[0].base_url,
        )
        for server in settings.model_servers
    ]
