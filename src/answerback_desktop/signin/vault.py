"""Where secrets are kept between runs: the system's keyring, or nowhere."""

from typing import Final, Protocol

_SERVICE: Final = "answerback-desktop"


class Vault(Protocol):
    """Keeps secrets. Its methods may block, so run them in a thread."""

    def get(self, name: str) -> str | None:
        """A secret, if there is one."""

    def set(self, name: str, secret: str) -> bool:
        """Keep it. False: only until the process ends."""

    def forget(self, name: str) -> None:
        """Drop it."""


class MemoryVault:
    """A `Vault` in memory, for one process and for tests."""

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}

    def get(self, name: str) -> str | None:
        return self._secrets.get(name)

    def set(self, name: str, secret: str) -> bool:
        self._secrets[name] = secret
        return False

    def forget(self, name: str) -> None:
        self._secrets.pop(name, None)


class KeyringVault:
    """A `Vault` in the system's keyring, or in memory where there is none or it is locked. Never in a file."""

    def __init__(self) -> None:
        self._memory = MemoryVault()

    def get(self, name: str) -> str | None:
        import keyring.errors  # noqa: PLC0415 - slow to load, and only wanted by those who sign in

        kept = self._memory.get(name)
        if kept is not None:
            return kept
        try:
            return keyring.get_password(_SERVICE, name)
        except (keyring.errors.KeyringError, RuntimeError, OSError):
            return None

    def set(self, name: str, secret: str) -> bool:
        import keyring.errors  # noqa: PLC0415

        try:
            keyring.set_password(_SERVICE, name, secret)
        except (keyring.errors.KeyringError, RuntimeError, OSError):
            return self._memory.set(name, secret)
        self._memory.forget(name)
        return True

    def forget(self, name: str) -> None:
        import keyring.errors  # noqa: PLC0415

        self._memory.forget(name)
        try:
            keyring.delete_password(_SERVICE, name)
        except (keyring.errors.KeyringError, RuntimeError, OSError):
            pass  # there was none
