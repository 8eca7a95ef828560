"""API Gateway WebSocket: a frame of a client may have 32 KB, a fragment of a message too, or the connection ends."""

from importlib import import_module
from typing import Any, Final

from answerback_aws.emulator.patches import Moved

_MODULE: Final = "hypercorn.protocol.ws_stream"  # of the emulator's environment; reads its WebSockets
_BUFFER: Final = "WebsocketBuffer"
_MAX_FRAME_BYTES: Final = 32 * 1024


def patch() -> None:
    """Apply. Raises: Moved."""
    module = import_module(_MODULE)
    if not hasattr(module, _BUFFER) or not hasattr(module, "FrameTooLargeError"):
        raise Moved(_MODULE, _BUFFER)
    made = getattr(module, _BUFFER)
    too_large = module.FrameTooLargeError

    class Frames:
        """Puts a message together of its frames, and minds the size of each."""

        def __init__(self, max_length: int) -> None:
            self._message = made(max_length)
            self._frame_bytes = 0
            self._is_over = False

        def extend(self, part: Any) -> None:
            if self._is_over:
                return  # the rest of it, which was on its way; behind it comes the client's closing frame
            self._frame_bytes += len(part.data.encode() if isinstance(part.data, str) else part.data)
            if self._frame_bytes > _MAX_FRAME_BYTES:
                self._is_over = True
                raise too_large  # the server closes with 1009
            if part.frame_finished:
                self._frame_bytes = 0
            self._message.extend(part)

        def clear(self) -> None:
            self._message.clear()

        def to_message(self) -> Any:
            if self._is_over:
                return {"type": "websocket.disconnect", "code": 1009, "reason": "Frame too large"}
            return self._message.to_message()

    setattr(module, _BUFFER, Frames)
