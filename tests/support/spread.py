"""How the tests are spread over several processes: `pytest -n 2`."""

from pathlib import PurePosixPath
from typing import Final

import pytest
from xdist.scheduler import LoadFileScheduling

TOGETHER: Final = PurePosixPath("tests/aws")
"""The files in this folder share stacks that take long to deploy, so they all run in one process."""


class Spread(LoadFileScheduling):
    """A file's tests run in one process, in the order of collection."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)  # type: ignore[arg-type]

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return str(TOGETHER) if PurePosixPath(file).parent == TOGETHER else file


def takes_longer(item: pytest.Item) -> bool:
    """Whether a test is of a file that would keep one process busy, or waiting, when the others have ended."""
    path = PurePosixPath(item.nodeid.split("::")[0])
    return path.parent == TOGETHER or path.parts[1] in {"simulation", "process", "conformance"}
