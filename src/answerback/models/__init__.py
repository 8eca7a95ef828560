"""Language models: the embedded one, any OpenAI-compatible server, a pipeline of one's own, and an echo.

`open_model("local")` is the way in; what each spec may be is in `answerback.models.spec`.
"""

from answerback.models.build import build_model, open_model
from answerback.models.echo import EchoFailure, EchoModel, EchoOptions, echo_deltas, echo_text, prompt_text
from answerback.models.spec import ModelSpec, ModelSpecError, parse_model_spec, parse_model_specs

__all__ = [
    "EchoFailure",
    "EchoModel",
    "EchoOptions",
    "ModelSpec",
    "ModelSpecError",
    "build_model",
    "echo_deltas",
    "echo_text",
    "open_model",
    "parse_model_spec",
    "parse_model_specs",
    "prompt_text",
]
