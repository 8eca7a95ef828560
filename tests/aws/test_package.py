"""The package of the functions: reproducible, small, complete, and only what functions need."""

import ast
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from answerback_aws.deploy.package import (
    ImportFailed,
    Package,
    PackageError,
    Target,
    build_package,
    handlers,
    import_handler,
    unpack,
)

SOURCE = Path(__file__).resolve().parents[2] / "src"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "wheels"
pytestmark = pytest.mark.timeout(300)

BUILD = """
import os, sys
from pathlib import Path
from answerback_aws.deploy.package import Target, build_package
os.umask(0o077)
package = build_package(Target(), cache=Path(sys.argv[1]))
sys.stdout.buffer.write(package.data)
sys.stderr.write(package.content_sha256)
"""


@pytest.fixture(scope="session")
def package() -> Package:
    return build_package(Target(), cache=CACHE)


@pytest.fixture(scope="session")
def here() -> Package:
    """For the interpreter of the tests."""
    return build_package(Target.here(), cache=CACHE)


@pytest.fixture(scope="session")
def unpacked(here: Package, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return unpack(here.data, tmp_path_factory.mktemp("package"))


def test_another_process_elsewhere_builds_the_same_bytes_of_freshly_fetched_wheels(
    package: Package, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path / "wheels")]
    environment = {**os.environ, "TZ": "Asia/Seoul", "LC_ALL": "C", "PYTHONHASHSEED": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert done.stdout == package.data
    assert done.stderr.decode() == package.content_sha256


def test_it_is_small_and_every_file_is_readable_by_anyone(package: Package) -> None:
    assert len(package.data) <= 10_000_000
    with zipfile.ZipFile(io.BytesIO(package.data)) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
    assert [info.filename for info in infos] == sorted(info.filename for info in infos)
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.external_attr >> 16 & 0o777 for info in infos} == {0o644}


def test_it_is_for_lambda_and_has_nothing_that_its_runtime_has(package: Package) -> None:
    tops = {name.split("/")[0] for name in package.names}
    assert {"answerback", "msgspec", "jwt", "cryptography", "aws_lambda_powertools"} <= tops
    assert not tops & {"boto3", "botocore", "jmespath", "s3transfer", "urllib3", "dateutil", "six.py"}
    binaries = [name for name in package.names if name.endswith(".so")]
    assert binaries
    assert all("aarch64" in name or name.endswith(".abi3.so") for name in binaries)
    with zipfile.ZipFile(io.BytesIO(package.data)) as archive:
        for name in binaries:
            assert archive.read(name)[18:20] == b"\xb7\x00", f"{name} is not for aarch64"
    assert not [name for name in package.names if name.endswith((".pyc", ".pyi", ".c", "RECORD"))]
    assert "answerback/stores/sql/0001_initial.sql" in package.names


def test_it_has_every_module_of_ours_that_it_imports(package: Package) -> None:
    """The product and the runtime of the functions, and nothing that deploys, emulates, shows windows or proves."""
    ours = {name for name in package.names if name.startswith("answerback") and name.endswith(".py")}
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in ours}
    assert {re.match(r"answerback(_aws/(__init__.py|runtime)|/)", name) is not None for name in ours} == {True}
    for name in ours:
        for node in ast.walk(ast.parse((SOURCE / name).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("answerback_"):
                assert node.module in modules, f"{name} imports {node.module}"


def test_every_handler_is_imported_in_a_bare_interpreter(unpacked: tuple[Path, Path]) -> None:
    task, runtime = unpacked
    found = handlers(task)
    assert {name.rpartition(".")[2] for name in found} >= {"authorizer", "connections", "front", "worker"}
    for module in found:
        assert import_handler(task, runtime, module).modules > 0
    assert not list(task.rglob("*.pyc"))


def test_a_package_without_one_of_its_parts_is_found_out(here: Package, tmp_path: Path) -> None:
    task, runtime = unpack(here.data, tmp_path)
    (task / "answerback" / "core" / "request.py").unlink()
    with pytest.raises(ImportFailed, match=r"answerback\.core\.request"):
        import_handler(task, runtime, "answerback_aws.runtime.functions.worker")


# --- models of the user's own -------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def build(*include: Path, model: str, requirements: Path | None = None) -> Package:
    return build_package(Target.here(), cache=CACHE, models=[model], include=include, requirements=requirements)


OPTIONAL = "try:\n    import pandas\nexcept ImportError:\n    pandas = None\nimport boto3\ndef make(): ..."
"""What has an alternative may be missing."""


def test_a_module_and_a_package_of_the_users_are_in_it_and_change_its_name(tmp_path: Path, here: Package) -> None:
    write(tmp_path, single=OPTIONAL, rag__steps="import json\nfrom rag import tools\nclass Make: ...")
    (tmp_path / "rag" / "tools.py").write_text("")
    (tmp_path / "rag" / "outbox.txt").write_text("outbox")
    (tmp_path / "rag" / ".env").write_text("SECRET=1")
    (tmp_path / "rag" / "__pycache__").mkdir()
    (tmp_path / "rag" / "__pycache__" / "x.pyc").write_text("")
    both = build(tmp_path / "single.py", tmp_path / "rag", model="python:rag.steps:Make")
    assert {"single.py", "rag/steps.py", "rag/tools.py", "rag/outbox.txt"} <= set(both.names)
    assert not [name for name in both.names if ".env" in name or "__pycache__" in name]
    assert both.content_sha256 != here.content_sha256


@pytest.mark.parametrize(
    ("files", "model", "says"),
    [
        ({"other": ""}, "python:mine:make", "the module mine is not in the package. Add it: --include"),
        ({"mine": "def build(): ..."}, "python:mine:make", "mine.py has no make"),
        ({"mine": "def make(:"}, "python:mine:make", "not Python that can be read"),
        ({"mine": "import pandas\ndef make(): ..."}, "python:mine:make", "imports pandas, which is not in the package"),
        ({"mine": "from answerback.cli import main as make"}, "python:mine:make", "no function can import"),
        ({"mine": "from answerback_desktop import app as make"}, "python:mine:make", "no function can import"),
        ({"mine": ""}, "bedrock:", "needs a model's id"),
    ],
)
def test_what_would_fail_on_lambda_is_found_now(files: dict[str, str], model: str, says: str, tmp_path: Path) -> None:
    write(tmp_path, **files)
    with pytest.raises(PackageError) as caught:
        build(*sorted(tmp_path.glob("*.py")), model=model)
    assert says in str(caught.value)


def test_paths_that_are_not_there_and_names_that_are_taken(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no such module"):
        build(tmp_path / "nix", model="echo")
    (tmp_path / "jwt").mkdir()
    with pytest.raises(PackageError, match="is empty"):
        build(tmp_path / "jwt", model="echo")
    (tmp_path / "jwt" / "__init__.py").write_text("")
    with pytest.raises(PackageError, match="Rename yours"):
        build(tmp_path / "jwt", model="echo")


def test_requirements_bring_what_they_need_but_not_what_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# mine\nyarl\npython-dateutil\n")
    names = build(model="echo", requirements=tmp_path / "requirements.txt").names
    tops = {name.split("/")[0] for name in names}
    assert {"yarl", "multidict", "dateutil"} <= tops, "what is named is there, even if Lambda has it"
    assert "six.py" not in tops


def test_requirements_that_cannot_be_had_are_explained(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="requirements file"):
        build(model="echo", requirements=tmp_path / "nix.txt")
    (tmp_path / "requirements.txt").write_text("msgspec==0.0.1\n")
    with pytest.raises(PackageError, match="pip cannot fetch"):
        build(model="echo", requirements=tmp_path / "requirements.txt")
