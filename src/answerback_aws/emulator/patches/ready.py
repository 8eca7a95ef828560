"""Says that this very process serves, to the one that started it and knows its secret."""

from answerback_aws.emulator.patches import replace
from answerback_aws.emulator.patches.bedrock import Receive, Send


def patch(secret: str) -> None:
    """Apply: `GET /SECRET` is answered with 204. Raises: Moved."""

    async def app(scope: dict[str, object], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != f"/{secret}":
            await app_was(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app_was = replace("app", "app", app)
