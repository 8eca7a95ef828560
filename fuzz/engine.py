"""The fuzzing process of one target: `engine.py TARGET` and libFuzzer's own arguments. Started by run.py."""

import logging
import sys

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["answerback", "jwt"]):
    from harness import TARGETS


def main() -> None:
    """Never returns."""
    logging.disable(logging.WARNING)
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
