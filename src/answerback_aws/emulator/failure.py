"""Why the backend cannot be emulated here."""


class LocalFailed(Exception):
    """`message` says what is wrong, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message} — {self.hint}" if self.hint else self.message
