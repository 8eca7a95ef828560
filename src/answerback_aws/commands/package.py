"""`answerback aws package`: build the package of the functions, without deploying it."""

from pathlib import Path
from typing import Annotated

import typer

from answerback.cli.options import Json, with_options
from answerback.cli.output import CliError, ExitCode, say, say_json, say_table, usage_error
from answerback_aws.commands.options import PackageOptions, explained_package, wheel_cache
from answerback_aws.deploy.package import build_package
from answerback_aws.deploy.package import measure as measure_imports


@with_options
def package(
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the zip.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="SPEC", help="Check that it is in the package; repeatable."),
    ] = None,
    built: PackageOptions,
    measure: Annotated[
        bool, typer.Option("--measure", help="Import each handler in a bare interpreter, and show its CPU time.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Build the package of the functions, without deploying it. The same input gives the same bytes.

    Examples:

      answerback aws package --output functions.zip

      answerback aws package --architecture here --measure
    """
    target = built.target()
    if measure and not target.is_this_python:
        raise usage_error("only a package for this machine can be imported here", "say --architecture here")
    with explained_package():
        made = build_package(
            target,
            cache=wheel_cache(),
            models=model or [],
            include=built.include or [],
            requirements=built.requirements,
        )
        imported = measure_imports(made.data) if measure else ()
    if output is not None:
        try:
            output.write_bytes(made.data)
        except OSError as exc:
            raise CliError(f"cannot write {output}: {exc.strerror}", "name another file with --output") from exc
    if as_json:
        say_json(
            {
                "target": target.name,
                "bytes": len(made.data),
                "unzippedBytes": made.unzipped_bytes,
                "sha256": made.content_sha256,
                "file": None if output is None else str(output),
                "imports": [{"handler": one.module, "cpuMs": round(one.cpu_ms, 1)} for one in imported],
            }
        )
        return ExitCode.OK
    say(
        f"{target.name}: {len(made.data) / 1e6:.1f} MB, unzipped {made.unzipped_bytes / 1e6:.1f} MB, "
        f"{len(made.names)} files, contents {made.content_sha256[:16]}"
    )
    if imported:
        say_table(("handler", "import, ms CPU"), [(one.module, round(one.cpu_ms)) for one in imported])
    if output is not None:
        say(f"Written to {output}")
    return ExitCode.OK
