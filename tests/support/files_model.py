"""A model that says which files it was shown. The gateway loads it as `python:files_model:make`."""

import hashlib
from collections.abc import AsyncGenerator

from answerback.ports import Finish, ModelLimits, Piece, Prompt


class FilesModel:
    name = "files"
    context_tokens = 10_000_000
    concurrency = 10
    limits = ModelLimits(attachments=("image", "document"))

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        for file in prompt.attachments:
            yield f"{file.name} {file.media_type} {hashlib.sha256(file.data).hexdigest()}\n"
        yield Finish()

    async def close(self) -> None:
        pass


def make() -> FilesModel:
    return FilesModel()
