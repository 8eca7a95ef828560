"""The OpenAI-compatible HTTP server that llama.cpp opens beside an embedded model."""

from answerback.models.local import LocalModel


def base_url(model: LocalModel) -> str:
    """Its URL, `http://127.0.0.1:PORT/v1`; the model must be open."""
    return f"{model._server.listening_address}/v1"


def api_key(model: LocalModel) -> str:
    """The key that it asks for."""
    return model._api_key
