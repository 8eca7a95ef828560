"""An account of AWS that nothing is sent to: each call is answered from a table, in the shapes that botocore knows."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError
from botocore.validate import validate_parameters

from answerback_aws.deploy.account import Account

ACCOUNT, REGION = "123456789012", "ap-northeast-2"
_STREAMS = {"ConverseStream"}


class FakeAccount(Account):
    """Answers by the name of the call (`GetAccount`): what comes, or a ClientError. No other call is allowed."""

    def __init__(self) -> None:
        super().__init__(region=REGION, aws_access_key_id="x", aws_secret_access_key="x")
        self.answers: Mapping[str, Any] = {}
        self.calls: list[tuple[str, Mapping[str, Any]]] = []

    is_real = True  # type: ignore[assignment]

    def answering(self, answers: Mapping[str, Any]) -> "FakeAccount":
        """The same, with these answers and no calls yet: its clients are slow to make."""
        self.answers = {"GetCallerIdentity": {"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/ann"}, **answers}
        self.calls.clear()
        return self

    def client(self, service: str, **options: Any) -> Any:
        known = len(self._clients)
        client = super().client(service, **options)
        if len(self._clients) > known:
            client.meta.events.register("before-parameter-build", self._note)
            client.meta.events.register("before-call", self._answer)
        return client

    def made(self) -> list[str]:
        """The calls that were made, by name."""
        return [name for name, _ in self.calls]

    def _note(self, params: Mapping[str, Any], model: Any, **_: Any) -> None:
        self.calls.append((model.name, params))

    def _answer(self, model: Any, **_: Any) -> tuple[Any, Any]:
        answer = self.answers.get(
            model.name, refused("AccessDeniedException", f"not authorized to perform: {model.name}")
        )
        if callable(answer):
            answer = answer(self.calls[-1][1])
        if isinstance(answer, Exception):
            raise answer
        if model.name not in _STREAMS:
            validate_parameters(answer, model.output_shape)
        return SimpleNamespace(status_code=200), answer


def refused(code: str, message: str = "planted") -> ClientError:
    """An error as botocore raises it."""
    return ClientError({"Error": {"Code": code, "Message": message}}, "Call")
