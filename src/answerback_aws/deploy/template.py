"""The template that is deployed."""

from pathlib import Path
from typing import Final

import answerback_aws

_FILE: Final = "template.yaml"


def template_text() -> str:
    """The CloudFormation template: from the installed package, else from the work tree."""
    package = Path(answerback_aws.__file__).parent
    for place in (package / _FILE, package.parents[1] / "infra" / _FILE):
        if place.exists():
            return place.read_text(encoding="utf-8")
    raise FileNotFoundError(f"{_FILE} is missing from this installation of answerback")
