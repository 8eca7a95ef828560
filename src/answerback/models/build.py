"""Makes the model that a spec names."""

from typing import assert_never

from answerback.models.echo import EchoModel
from answerback.models.spec import (
    EchoSpec,
    LocalSpec,
    ModelSpec,
    ModelSpecError,
    OpenAISpec,
    PythonSpec,
    parse_model_spec,
)
from answerback.ports import Model


def build_model(spec: str | ModelSpec) -> Model:
    """The model of a spec. Nothing is loaded or connected yet; `open_model` does that.

    Raises: ModelSpecError: the spec cannot be used; the text says what to do.
    """
    if isinstance(spec, str):
        spec = parse_model_spec(spec)
    match spec:
        case EchoSpec():
            return EchoModel(spec.options, name=spec.name)
        case LocalSpec() | OpenAISpec() | PythonSpec():
            raise ModelSpecError(f"{spec.name!r}: this kind of model is not built yet.")
        case _:
            assert_never(spec)
