"""Where the admin port of a running gateway is: a file in the data folder, beside its key, while it listens."""

from pathlib import Path
from typing import Final

FILE_NAME: Final = "admin.port"


def note_admin_port(data_dir: Path, port: int) -> None:
    """Write the port, for the commands of this machine. Raises: OSError: the folder cannot be written."""
    (data_dir / FILE_NAME).write_text(f"{port}\n", encoding="ascii")


def forget_admin_port(data_dir: Path) -> None:
    """Remove what this process, or one that was killed, has written. Raises: OSError: the file cannot be removed."""
    (data_dir / FILE_NAME).unlink(missing_ok=True)
