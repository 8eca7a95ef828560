"""The package of the functions: one zip for all, without what Lambda's runtime has, the same byte for byte.

Its wheels are chosen for Lambda's machine, fetched by pip, and checked against their hashes.
"""

import ast
import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import answerback
import answerback_aws
from answerback.models.spec import ModelSpecError, PythonSpec, parse_model_spec

_PINS: Final = Path(answerback_aws.__file__).parent / "requirements" / "functions.txt"
_PLATFORMS: Final = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""Lambda's Amazon Linux 2023 has glibc 2.34; wheels for any older one run there."""

_MACHINES: Final = {"arm64": "aarch64", "x86_64": "x86_64"}
_PIP_TIMEOUT_S: Final = 600
_RUNTIME_HAS: Final = frozenset(
    {"boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3", "simplejson"}
)


@dataclass(frozen=True, slots=True)
class _Pin:
    version: str
    sha256: frozenset[str]


class PackageError(Exception):
    """The functions cannot be packaged like this; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the package runs. `python`: `3.13`. `architecture`: Lambda's `arm64` or `x86_64`; None: this machine."""

    python: str = "3.13"
    architecture: str | None = "arm64"

    @classmethod
    def here(cls, *, python: str | None = None) -> "Target":
        """This machine and, if no other is named, this Python."""
        return cls(python=python or f"{sys.version_info[0]}.{sys.version_info[1]}", architecture=None)

    @property
    def is_this_python(self) -> bool:
        """Whether this process can import the package."""
        return self == Target.here()

    @property
    def name(self) -> str:
        """Names a folder for it."""
        return f"python{self.python}-{self.architecture or sysconfig.get_platform()}"


def fetch_pinned(target: Target, folder: Path) -> tuple[Path, ...]:
    """Our own pinned wheels, by name, from `folder` if they were fetched before.

    Raises: PackageError: pip is not there, or failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = _pins()
    if (found := _chosen(wanted, folder)) is None:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            _download(target, Path(fresh), ["--no-deps", "--require-hashes", "--requirement", str(_PINS)])
            for wheel in Path(fresh).glob("*.whl"):
                wheel.replace(folder / wheel.name)  # whole, for a process that packages at the same time
        found = _chosen(wanted, folder)
    if found is None:
        raise PackageError(f"pip did not fetch all of the pinned packages into {folder}. Empty that folder and repeat.")
    return found


def fetch_required(target: Target, requirements: Path, folder: Path) -> tuple[Path, ...]:
    """The wheels of the user's requirements and of what those need, without what Lambda's runtime or the pins have.

    Raises: PackageError: as `fetch_pinned`, or the file cannot be read.
    """
    try:
        named = {_normal(name) for name in re.findall(r"^([A-Za-z0-9][\w.-]*)", requirements.read_text("utf-8"), re.M)}
    except (OSError, UnicodeDecodeError) as exc:
        raise PackageError(f"Cannot read {requirements} ({exc}). Name a requirements file of pip.") from exc
    pinned = _pins()
    with tempfile.TemporaryDirectory() as temporary:
        constraints = Path(temporary) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={pin.version}\n" for name, pin in pinned.items()), "utf-8")
        into = folder / "required"
        into.mkdir(parents=True, exist_ok=True)
        for old in into.glob("*.whl"):
            old.unlink()
        _download(target, into, ["--requirement", str(requirements), "--constraint", str(constraints)])
    skipped = (_RUNTIME_HAS - named) | set(pinned)
    return tuple(wheel for wheel in sorted(into.glob("*.whl")) if _wheel_name(wheel) not in skipped)


def _download(target: Target, folder: Path, options: Sequence[str]) -> None:
    if importlib.util.find_spec("pip") is None:
        raise PackageError(
            "The package's wheels are fetched by pip, which this Python has not. Run: python -m ensurepip"
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--only-binary=:all:"]
    command += ["--dest", str(folder), "--implementation", "cp", "--python-version", target.python]
    if target.architecture is not None:
        machine = _MACHINES[target.architecture]
        for platform in _PLATFORMS:
            command += ["--platform", f"{platform}_{machine}"]
    try:
        done = subprocess.run(  # noqa: S603 - our own words and paths
            [*command, *options], capture_output=True, text=True, check=False, timeout=_PIP_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise PackageError("pip did not fetch the wheels within 10 minutes. Check the network and repeat.") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = " ".join(errors or done.stderr.splitlines()[-3:])
        raise PackageError(f"pip cannot fetch the wheels for {target.name}: {why}")


def _pins() -> dict[str, _Pin]:
    """The pins by name."""
    pinned = re.finditer(r"^([A-Za-z0-9][\w.-]*)==(\S+)(.*(?:\n .*)*)", _PINS.read_text("utf-8"), re.M)
    return {
        _normal(match[1]): _Pin(match[2], frozenset(re.findall(r"--hash=sha256:(\w+)", match[3]))) for match in pinned
    }


def _chosen(wanted: Mapping[str, _Pin], folder: Path) -> tuple[Path, ...] | None:
    """The wheels of the pins, if all are in the folder and as they were when they were pinned."""
    found = {(_wheel_name(path), path.name.split("-")[1]): path for path in sorted(folder.glob("*.whl"))}
    wheels = []
    for name, pin in wanted.items():
        wheel = found.get((name, pin.version))
        if wheel is None or hashlib.sha256(wheel.read_bytes()).hexdigest() not in pin.sha256:
            return None
        wheels.append(wheel)
    return tuple(wheels)


def _wheel_name(path: Path) -> str:
    return _normal(path.name.split("-")[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


MAX_ZIP_BYTES: Final = 250 * 1024 * 1024
"""What Lambda lets a function and its layers have, unzipped."""

_NOT_FOR_FUNCTIONS: Final = ("answerback/cli/", "answerback/gateway/")
"""They are in the package and import what is not: a terminal's and a server's libraries."""
_OURS_SUFFIXES: Final = (".py", ".sql", ".toml", ".typed")
_ONLY_FOR_BUILDS: Final = (".pyc", ".pyi", ".pyx", ".pxd", ".c", ".h", ".cpp", ".a")
_NEVER_INCLUDED: Final = frozenset({"__pycache__", "node_modules", "venv"})
_RUNTIME_MODULES: Final = frozenset(
    {"boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3", "awslambdaric", "simplejson"}
)
_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
_READABLE: Final = 0o100644 << 16
_UNIX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The zip, and the hash (hex SHA-256) of the names and contents in it, whatever compressed them."""

    data: bytes
    content_sha256: str
    names: tuple[str, ...]
    unzipped_bytes: int


def build_package(
    target: Target,
    *,
    cache: Path,
    models: Sequence[str] = (),
    include: Sequence[Path] = (),
    requirements: Path | None = None,
) -> Package:
    """Package the functions for `target`. The wheels are kept in `cache`.

    `include`: modules or packages of the user's, put at the top; `requirements`: what those need, in pip's format.
    `models`: specs; the module of each `python:` one must be there, and everything that it imports.

    Raises: PackageError: something is missing or does not fit; the text says what to do.
    """
    folder = cache / target.name
    files: dict[str, bytes] = {}
    _add(files, _ours(), "answerback")
    for wheel in fetch_pinned(target, folder):
        _add(files, _of_wheel(wheel, is_pruned=True), wheel.name)
    if requirements is not None:
        for wheel in fetch_required(target, requirements, folder):
            _add(files, _of_wheel(wheel, is_pruned=False), wheel.name)
    included: dict[str, bytes] = {}
    for path in include:
        _add(included, _of_user(path), str(path))
    _add(files, included.items(), "--include")
    _check_models(models, files, included)
    unzipped = sum(map(len, files.values()))
    if unzipped > MAX_ZIP_BYTES:
        raise PackageError(
            f"The package has {unzipped >> 20} MB; Lambda takes at most 250. Leave packages out of the requirements."
        )
    return Package(
        data=_zip(files),
        content_sha256=_content_sha256(files),
        names=tuple(sorted(files)),
        unzipped_bytes=unzipped,
    )


def _add(files: dict[str, bytes], more: Iterable[tuple[str, bytes]], source: str) -> None:
    for name, data in more:
        if files.get(name, data) != data:
            raise PackageError(f"{source} has {name}, and so has the package already. Rename yours.")
        files[name] = data


def _ours() -> Iterator[tuple[str, bytes]]:
    """The product, and of this package what runs inside the functions."""
    functions = Path(answerback_aws.__file__).parent
    for root in (Path(answerback.__file__).parent, functions / "runtime"):
        for path in sorted(root.rglob("*")):
            if path.suffix in _OURS_SUFFIXES and path.is_file():
                yield path.relative_to(functions.parent).as_posix(), path.read_bytes()
    yield "answerback_aws/__init__.py", (functions / "__init__.py").read_bytes()


def _of_wheel(path: Path, *, is_pruned: bool) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as wheel:
        for info in wheel.infolist():
            name = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", info.filename)
            if info.is_dir() or ".data/" in name or name.endswith(_ONLY_FOR_BUILDS):
                continue
            parts = PurePosixPath(name).parts
            if parts[0].endswith(".dist-info") and parts[1:] not in {("METADATA",), ("entry_points.txt",)}:
                continue
            if is_pruned and ("tests" in parts or "swagger_ui" in parts):
                continue
            yield name, wheel.read(info)


def _of_user(path: Path) -> Iterator[tuple[str, bytes]]:
    path = path.resolve()
    if path.is_file() and path.suffix == ".py":
        yield path.name, path.read_bytes()
        return
    if not path.is_dir():
        raise PackageError(
            f"--include {path}: there is no such module or folder. Name a .py file or a package's folder."
        )
    found = False
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NEVER_INCLUDED)
        for name in sorted(names):
            # Hidden files are often secrets (.env).
            if not name.startswith(".") and not name.endswith(".pyc"):
                file = Path(folder, name)
                found = True
                yield f"{path.name}/{file.relative_to(path).as_posix()}", file.read_bytes()
    if not found:
        raise PackageError(f"--include {path}: the folder is empty.")


def _check_models(models: Sequence[str], files: Mapping[str, bytes], included: Mapping[str, bytes]) -> None:
    """A function that cannot import its model fails for the first user only; so it is looked for now."""
    for text in models:
        try:
            spec = parse_model_spec(text)
        except ModelSpecError as exc:
            raise PackageError(str(exc)) from exc
        if isinstance(spec, PythonSpec):
            source = _source(spec.module, files)
            if source is None:
                raise PackageError(
                    f"{text}: the module {spec.module} is not in the package. Add it: --include PATH_OF_"
                    f"{spec.module.split('.')[0].upper()}, or name its package in --requirements."
                )
            if spec.factory.split(".")[0] not in _names(source[0], source[1]):
                raise PackageError(f"{text}: {source[0]} has no {spec.factory}.")
    for name, data in included.items():
        if name.endswith(".py"):
            _check_imports(name, data, files)


def _source(module: str, files: Mapping[str, bytes]) -> tuple[str, bytes] | None:
    stem = module.replace(".", "/")
    for name in (f"{stem}.py", f"{stem}/__init__.py"):
        if name in files:
            return name, files[name]
    return None


def _parse(name: str, data: bytes) -> ast.Module:
    try:
        return ast.parse(data, name)
    except (SyntaxError, ValueError) as exc:
        raise PackageError(f"{name} is not Python that can be read: {exc}.") from exc


def _names(name: str, data: bytes) -> set[str]:
    """What a module defines or imports at its top; everything, if it takes all from another one."""
    found: set[str] = set()
    for node in ast.walk(_parse(name, data)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _check_imports(name: str, data: bytes, files: Mapping[str, bytes]) -> None:
    """What a module of the user's imports as it is loaded is in the package, in Python, or in Lambda's runtime."""
    tops = {re.split(r"[/.]", path)[0] for path in files}
    for module in _imported(_parse(name, data).body):
        top = module.split(".")[0]
        if top in sys.stdlib_module_names or top in _RUNTIME_MODULES:
            continue
        if top.startswith("answerback"):
            source = _source(module, files)
            if source is None or source[0].startswith(_NOT_FOR_FUNCTIONS):
                raise PackageError(f"{name} imports {module}, which no function can import. Do without it.")
        elif top not in tops:
            raise PackageError(
                f"{name} imports {top}, which is not in the package. Name it in --requirements, or --include it."
            )


def _imported(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Modules imported at the top without an alternative; those of a `try` or `if` may be missing."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def _zip(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _EARLIEST)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = _UNIX
            info.external_attr = _READABLE
            archive.writestr(info, files[name])
    return out.getvalue()


def _content_sha256(files: Mapping[str, bytes]) -> str:
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{len(files[name])}\0".encode())
        whole.update(files[name])
    return whole.hexdigest()


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
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(task)
    for name in sorted(_RUNTIME_MODULES):
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
