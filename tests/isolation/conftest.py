"""A real gateway, with tokens and without, and Ann with an id in every state."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from answerback.gateway.app import Gateway
from answerback.gateway.settings import AuthSettings, GatewaySettings
from two_users import SECRET, Site, Victim


@pytest.fixture(params=["tokens", "no tokens"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    has_tokens = request.param == "tokens"
    settings = GatewaySettings(
        port=0,
        admin_port=0,
        data_dir=tmp_path / "data",
        models=("echo", "stuck=echo:fail=hang", "context=echo:context=1"),
        rate_limit=0,
        grace_s=0.1,
        auth=AuthSettings(secret=SECRET) if has_tokens else AuthSettings(),
    )
    async with Gateway(settings) as gateway:
        site = Site(gateway, has_tokens, settings.data_dir)
        yield site
        for peer in site.peers:
            await peer.close()


@pytest.fixture
async def ann(site: Site) -> Victim:
    peer = await site.join("ann")
    await peer.say(action="hello", helloId="h")
    connection_id = (await peer.until("welcome"))["connectionId"]
    requests = {
        state: str(uuid.uuid4()) for state in ("done", "streamed", "running", "waiting", "refused", "cancelled early")
    }
    conversations = {state: str(uuid.uuid4()) for state in ("used", "busy", "deleted")}

    async def ask(state: str, conversation: str, **more: Any) -> None:
        await peer.say(
            action="sendMessage",
            requestId=requests[state],
            message="a secret of Ann",
            conversationId=conversation,
            **more,
        )

    await ask("done", conversations["used"])
    await peer.until("messageResponse", requestId=requests["done"])
    await ask("streamed", conversations["deleted"], stream=True)
    await peer.until("messageResponse", requestId=requests["streamed"])
    await peer.say(action="updateConversation", requestId="r", conversationId=conversations["deleted"], deleted=True)
    await peer.until("conversation")
    await ask("running", conversations["busy"], model="stuck")
    await peer.until("messageAccepted", requestId=requests["running"])
    await ask("waiting", conversations["busy"])
    await peer.until("messageAccepted", requestId=requests["waiting"])
    await ask("refused", conversations["used"], model="no-such-model")
    await peer.until("messageResponse", requestId=requests["refused"])
    await peer.say(action="cancelMessage", requestId=requests["cancelled early"])
    await peer.until("messageResponse", requestId=requests["cancelled early"])
    return Victim(peer, connection_id, requests, conversations)
