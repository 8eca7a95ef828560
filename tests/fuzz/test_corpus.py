"""Every kept input still passes its target. docs/fuzzing.md says how more are found."""

from collections.abc import Callable

import pytest

from harness import TARGETS, corpus


@pytest.mark.parametrize(("name", "target"), TARGETS.items(), ids=TARGETS)
def test_kept_inputs_pass(name: str, target: Callable[[bytes], None]) -> None:
    inputs = corpus.inputs(name)
    assert inputs
    for data in inputs:
        try:
            target(data)
        except Exception as exc:
            exc.add_note(f"{name} on the kept input {data!r}")
            raise


def test_every_corpus_file_has_a_target() -> None:
    assert {path.stem for path in corpus.FOLDER.glob("*.txt")} == set(TARGETS)
