"""Imports the handlers of a package as Lambda would: from the zip alone, beside what Lambda's runtime has."""

import importlib.util
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

_RUNTIME: Final = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")
_TIMEOUT_S: Final = 120
_CHILD: Final = """
import json, sys, time
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
begun = time.process_time()
module = __import__(sys.argv[3], fromlist=["handler"])
spent = time.process_time() - begun
assert callable(module.handler)
print(json.dumps({"cpu_ms": spent * 1000, "modules": len(sys.modules)}))
"""


class ImportFailed(Exception):
    """A handler cannot be imported from the package; the text is the interpreter's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What importing a handler took: CPU milliseconds without any compiled file, and modules loaded."""

    module: str
    cpu_ms: float
    modules: int


def unpack(data: bytes, folder: Path) -> tuple[Path, Path]:
    """Unzip a package, and put beside it a folder with what Lambda's runtime has. Returns: both folders."""
    task, runtime = folder / "task", folder / "runtime"
    runtime.mkdir()
    with zipfile.ZipFile(BytesIO(data)) as archive:
        archive.extractall(task)
    for name in _RUNTIME:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            origin = Path(found.origin)
            source = origin.parent if origin.name == "__init__.py" else origin
            (runtime / source.name).symlink_to(source)
    return task, runtime


def handlers(task: Path) -> tuple[str, ...]:
    """The modules of an unzipped package that have a handler."""
    folder = task / "answerback_aws" / "runtime" / "functions"
    return tuple(
        f"answerback_aws.runtime.functions.{path.stem}"
        for path in sorted(folder.glob("*.py"))
        if "def handler(" in path.read_text("utf-8")
    )


def import_handler(task: Path, runtime: Path, module: str) -> Imported:
    """Import one in an interpreter that sees nothing else. Raises: ImportFailed."""
    command = [sys.executable, "-I", "-S", "-B", "-c", _CHILD, str(task), str(runtime), module]
    done = subprocess.run(  # noqa: S603 - our own words and paths
        command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, cwd=task
    )
    if done.returncode:
        raise ImportFailed(f"{module}: {(done.stderr.strip().splitlines() or ['it ended'])[-1]}")
    answer = json.loads(done.stdout)
    return Imported(module=module, cpu_ms=answer["cpu_ms"], modules=answer["modules"])


def measure(data: bytes, *, rounds: int = 3) -> tuple[Imported, ...]:
    """The best of some rounds for each handler. Raises: ImportFailed."""
    with tempfile.TemporaryDirectory() as folder:
        task, runtime = unpack(data, Path(folder))
        found = []
        for module in handlers(task):
            times = [import_handler(task, runtime, module) for _ in range(rounds)]
            found.append(min(times, key=lambda one: one.cpu_ms))
        return tuple(found)
