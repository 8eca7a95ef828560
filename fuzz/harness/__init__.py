"""What is fuzzed: functions of bytes that raise when something is wrong. docs/fuzzing.md has the how-to."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from harness.admin import admin
from harness.assembly import assembly
from harness.codec import client_frames, server_frames
from harness.listener import handshake, listener
from harness.model_reader import model_reader
from harness.parts import parts
from harness.service import front
from harness.session import session
from harness.sse import sse
from harness.tokens import admin_key, tokens

TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = MappingProxyType(
    {
        target.__name__: target
        for target in (
            client_frames,
            server_frames,
            session,
            assembly,
            parts,
            sse,
            model_reader,
            front,
            listener,
            handshake,
            tokens,
            admin_key,
            admin,
        )
    }
)
