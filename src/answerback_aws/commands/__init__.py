"""`answerback aws`: the same backend on AWS: deploy it, watch it, remove it."""

from typing import Final

__all__ = ["COMMANDS"]

COMMANDS: Final = {
    "check": ("See whether account and region are ready for it.", "answerback_aws.commands.deploy:check"),
    "deploy": ("Create the stack, or update it.", "answerback_aws.commands.deploy:deploy"),
    "status": ("Show how it is doing.", "answerback_aws.commands.stack:status"),
    "logs": ("Show the logs of all functions, in order of time.", "answerback_aws.commands.stack:logs"),
    "outputs": ("Show where everything is.", "answerback_aws.commands.stack:outputs"),
    "destroy": ("Delete the stack.", "answerback_aws.commands.stack:destroy"),
    "package": ("Build the package of the functions.", "answerback_aws.commands.deploy:package"),
    "local": ("Run the template on an emulator of AWS.", "answerback_aws.commands.local:local"),
}
