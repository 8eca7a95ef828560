"""A real gateway in the test's loop, its model dictated, behind a network that can be cut; and apps."""

import contextlib

import pytest

from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from answerback_desktop.settings import Settings
from desktop_app import DesktopApp
from dictated import DictatedModel
from network import Network


@pytest.fixture
async def stack():
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def model():
    return DictatedModel()


@pytest.fixture
async def start_gateway(stack, tmp_path, model):
    async def start(**settings):
        usual = {"models": ("echo",), "rate_limit": 0, "coalesce_ms": 1, "data_dir": tmp_path / "gateway"}
        gateway = Gateway(
            GatewaySettings(port=0, admin_port=None, grace_s=0.0, **{**usual, **settings}),
            models=(model,),
        )
        return await stack.enter_async_context(gateway)

    return start


@pytest.fixture
async def network(stack, start_gateway):
    gateway = await start_gateway()
    return await stack.enter_async_context(Network(gateway.url))


@pytest.fixture
async def open_app(stack, tmp_path, network):
    async def open_app(name="one", *, url=None, user="ada", **environment):
        settings = Settings(server_url=url or network.url, user=user)
        app = DesktopApp(tmp_path / "profiles", name, settings, **environment)
        return await stack.enter_async_context(app)

    return open_app
