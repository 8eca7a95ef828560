"""Sizes of protocol version 1, in encoded bytes. They are API Gateway's, so that both deployments agree."""

from typing import Final

PROTOCOL_VERSION: Final = 1
SUBPROTOCOL: Final = "answerback.v1"

MAX_MESSAGE_BYTES: Final = 128 * 1024
"""One message from a client, all its fragments together (API Gateway: 128 KB, close code 1009)."""

MAX_FRAME_BYTES: Final = 32 * 1024
"""One frame to a client, and one fragment from it (API Gateway: 32 KB, also the metering unit of a post)."""

MAX_ASKED_BYTES: Final = 16 * 1024
"""A question as those are shown it who watch; the history has all of it."""

MAX_ANSWER_BYTES: Final = 256 * 1024
"""One answer's text inside a JSON string. Below DynamoDB's 400 KB item, above what a model says in one answer."""

MAX_ID_LENGTH: Final = 128
"""Code points of a request, session, conversation or user id."""

MAX_CLIENT_LENGTH: Final = 64
"""Code points of the name, and of the version, that a client gives itself."""

MAX_PARTS: Final = 8
"""Kinds of parts that a question may ask for."""

MAX_RESUME_POINTS: Final = 100
"""Requests that one `hello` may name; a client with more sends several."""

MAX_PAGE: Final = 100
"""Items of one `conversations` or `history` page; the 32 KB of a frame may end a page earlier."""

MAX_TITLE_LENGTH: Final = 200
"""Code points of a conversation's title."""

MAX_SCHEMA_BYTES: Final = 16 * 1024
MAX_SCHEMA_DEPTH: Final = 64
"""The JSON Schema of a typed answer, as JSON without white space."""

PIECE_BYTES: Final = 64 * 1024
"""A piece of an attachment: in base64 three fragments of a message. Each but the last one has just this size."""

RETURNED_BYTES: Final = 24_000
"""Of an attachment that is read back, in one frame: 32,000 in base64, and room for the longest request id."""

MAX_ATTACHMENT_BYTES: Final = 4 * 1024 * 1024
"""One attachment."""

MAX_ATTACHMENTS: Final = 8
"""Attachments of one question."""

MAX_ATTACHED_BYTES: Final = 16 * 1024 * 1024
"""The attachments of one question together."""

MAX_FILE_NAME_LENGTH: Final = 255
"""Code points of an attachment's name."""
