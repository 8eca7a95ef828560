"""Secrets: in the keyring, or in memory, never anywhere else."""

import keyring
import keyring.backend
import keyring.errors
import pytest

from answerback_desktop.signin.vault import KeyringVault


class Keyring(keyring.backend.KeyringBackend):
    priority = 1

    def __init__(self, error=None):
        self.kept = {}
        self.error = error

    def _check(self):
        if self.error is not None:
            raise self.error

    def get_password(self, service, username):
        self._check()
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self._check()
        self.kept[service, username] = password

    def delete_password(self, service, username):
        self._check()
        if self.kept.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError


@pytest.fixture
def use():
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


def test_in_the_keyring(use):
    system = Keyring()
    use(system)
    vault = KeyringVault()
    assert vault.set("name", "secret")
    assert list(system.kept.values()) == ["secret"]
    assert KeyringVault().get("name") == "secret"
    vault.forget("name")
    vault.forget("name")
    assert vault.get("name") is None


@pytest.mark.parametrize("error", [keyring.errors.NoKeyringError(), keyring.errors.KeyringLocked()], ids=repr)
def test_without_one_only_until_the_end(use, error):
    use(Keyring(error))
    vault = KeyringVault()
    assert not vault.set("name", "secret")
    assert vault.get("name") == "secret"
    assert KeyringVault().get("name") is None
    vault.forget("name")
    assert vault.get("name") is None
