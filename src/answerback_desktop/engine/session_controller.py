"""The engine's commands in its loop: settings, opening accounts, sign-in, and the local gateway."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace as with_fields
from pathlib import Path

from msgspec.structs import replace

from answerback.client import Attachment, File
from answerback.tasks import Tasks
from answerback_desktop.engine.account import AccountEngine, Login
from answerback_desktop.engine.answers import own_files
from answerback_desktop.engine.environment import Environment, OutboundChoice, models_at, spec_of
from answerback_desktop.engine.events import (
    AccountClosed,
    ConnectionChanged,
    ConnectionReason,
    ConnectionStatus,
    DraftReturned,
    Event,
    GatewayChanged,
    GatewayStatus,
    LocalModelsFound,
    NoticeCode,
    NoticeRaised,
    SettingsChanged,
    SignInChanged,
    SignInStatus,
)
from answerback_desktop.engine.identity import Logins, is_same_login
from answerback_desktop.gateway import GatewayFailed, LocalGateway, address_of, can_start
from answerback_desktop.settings import AuthMode, Preset, PresetError, Settings, SettingsFile, problems
from answerback_desktop.signin.provider import SignInError
from answerback_desktop.store.files import AccountFiles
from answerback_desktop.store.schema import Database, StoreError, trouble_of

log = logging.getLogger("answerback.desktop")

MAX_IMPORT_BYTES = 512 << 20
"""A file above this is no export that fits the memory."""


class SessionController:
    """Runs the commands of `Engine` that are not the account's alone: sign-in, settings, the local gateway.

    Call `open` first and `close` last. Accounts are opened and closed one after the other.
    """

    def __init__(self, environment: Environment, emit: Callable[[Event], None]) -> None:
        self.environment = environment
        self._out = emit
        self._preset = Preset()
        self.settings = Settings()
        self._outbound = OutboundChoice()
        self._identity = Logins(environment, self.emit, self._token_failed)
        self._login: Login | None = None
        self._account: AccountEngine | None = None
        self._lock = asyncio.Lock()
        self._tasks = Tasks()
        self._signing_in: asyncio.Task[None] | None = None
        self._gateway: LocalGateway | None = None
        self._gateway_status = GatewayStatus.UNKNOWN

    # --- life

    async def open(self) -> None:
        """Settings, then the account; one that needs the keyring follows later. Raises: OSError."""
        self.environment.profile.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._preset = Preset.load(self.environment.preset_path)
        except PresetError as exc:
            log.error("the preset %s is not used: %s", self.environment.preset_path, exc)
            facts = {"path": str(self.environment.preset_path), "reason": str(exc)}
            self.emit(NoticeRaised(code=NoticeCode.PRESET_WRONG, facts=facts))
        self._file = SettingsFile(self.environment.profile.settings_path, self._preset)
        self.settings = self._file.load()
        self._outbound.apply(self.settings)
        self._emit_settings()
        if self._file.moved_aside is not None:
            self.emit(NoticeRaised(code=NoticeCode.SETTINGS_MOVED_ASIDE, facts={"path": str(self._file.moved_aside)}))
        if self.settings.auth is AuthMode.NONE:
            await self._open_account(await self._identity.login(self.settings))
        else:
            self._tasks.start(self._switch(), name="account")

    async def close(self) -> None:
        """Everything is written down; a gateway of ours is stopped."""
        await self._tasks.settle(grace_s=0)
        await self._close_account()
        await self._identity.settle()
        if self._gateway is not None:
            await self._gateway.stop()
        self._outbound.restore()

    async def _switch(self) -> None:
        """Close the open account and open the one that the settings name."""
        async with self._lock:
            await self._close_account()
            await self._open_account(await self._identity.login(self.settings))

    async def _open_account(self, login: Login | None) -> None:
        self._login = login
        if login is None:
            self.emit(AccountClosed())
            self.emit(ConnectionChanged(status=ConnectionStatus.SIGNED_OUT, reason=ConnectionReason.SIGN_IN_NEEDED))
            return
        files = AccountFiles(self.environment.profile.accounts_folder, login.account)
        self._open_data(login, files, files.open)

    def _open_data(self, login: Login, files: AccountFiles, open_database: Callable[[], Database]) -> None:
        try:
            self._account = AccountEngine(self, login, open_database(), files)
            self._account.open()
        except StoreError as exc:
            log.exception("the local store cannot be opened")
            self._account = None
            self.emit(NoticeRaised(code=NoticeCode(f"store-{exc.trouble}")))
            self.emit(ConnectionChanged(status=ConnectionStatus.STOPPED, reason=ConnectionReason.CLOSED))

    def store_changed(self, login: Login, files: AccountFiles, store_id: str) -> None:
        """The server's store is not the one of the account's data."""
        self._tasks.start(self._follow_store(login, files, store_id), name="other-store")

    async def _follow_store(self, login: Login, files: AccountFiles, store_id: str) -> None:
        """Another store answers at the address: its conversations are others. Those from before stay as they are."""
        async with self._lock:
            if self._login is not login or self._account is None:
                return
            count = self._account.conversations
            await self._close_account()
            self._login = login
            try:
                files.met(store_id)
            except StoreError as exc:
                log.exception("the file of the other store cannot be opened")
                self.emit(NoticeRaised(code=NoticeCode(f"store-{exc.trouble}")))
                return
            self._open_data(login, files, files.open)
            if count:
                facts: dict[str, str | int] = {"url": login.account.server_url, "count": count}
                self.emit(NoticeRaised(code=NoticeCode.OTHER_STORE, facts=facts))

    async def _open_kept(self, name: str) -> None:
        async with self._lock:
            if (login := self._login) is None:
                return
            files = AccountFiles(self.environment.profile.accounts_folder, login.account)
            database = files.open_kept(name)
            if database is None:
                return
            await self._close_account()
            self._login = login
            kept = with_fields(login, account=with_fields(login.account, is_kept=True))
            self._open_data(kept, files, lambda: database)

    async def _close_account(self) -> None:
        account, self._account, self._login = self._account, None, None
        if account is not None:
            await account.close()

    # --- commands

    def on_account(self, command: Callable[[AccountEngine], None]) -> None:
        """Do something with the open account; without one, nothing."""
        account = self._account
        if account is None:
            return
        try:
            command(account)
        except StoreError as exc:
            account.store_failed(exc, is_act=True)

    def ask(
        self,
        conversation_id: str,
        request_id: str,
        text: str,
        *,
        replaces: str | None = None,
        files: Sequence[File | Attachment] = (),
    ) -> None:
        """Ask a question, with the model, system prompt and limit of the settings. `TurnChanged` follows at once.

        `request_id`: a new uuid4. `replaces`: the turn whose place it takes (regenerate, edit); that turn and all
        after it become earlier versions, and come back if the new one does not complete. `files` go with it; an
        `Attachment` is one of an earlier question, of which the account has a copy.
        """
        if self._account is None:
            self.emit(DraftReturned(conversation_id=conversation_id, text=text, files=own_files(files)))
            return
        self.on_account(lambda account: account.ask(conversation_id, request_id, text, replaces=replaces, files=files))

    def open_kept(self, name: str | None) -> None:
        """Show what is kept of another server (`AccountOpened.kept`), to read and export; None: the server again."""
        self._tasks.start(self._switch() if name is None else self._open_kept(name), name="account")

    def import_file(self, path: Path) -> None:
        """Add what an export has and this account has not. A notice says what became of it."""
        self._tasks.start(self._import(path), name="import")

    async def _import(self, path: Path) -> None:
        try:
            if (await asyncio.to_thread(path.stat)).st_size > MAX_IMPORT_BYTES:
                raise ValueError
            text = (await asyncio.to_thread(path.read_bytes)).decode("utf-8")
        except (OSError, ValueError):
            self.emit(NoticeRaised(code=NoticeCode.IMPORT_FAILED, facts={"name": path.name}))
            return
        self.on_account(lambda account: account.import_text(text, path.name))

    def reconnect(self) -> None:
        """Try at once; also after the client was stopped."""
        if self._account is None and self._signing_in is None:
            self._tasks.start(self._switch(), name="account")
        self.on_account(lambda account: account.reconnect())

    def change_settings(self, settings: Settings) -> None:
        """Store them, and let them hold. Another server or user: `AccountOpened` follows."""
        if problems(settings):
            return
        settings = self._preset.enforced(settings)
        before, self.settings = self.settings, replace(settings, token="")
        try:
            self._file.save(self.settings)
        except OSError as exc:
            log.exception("the settings cannot be written")
            self.emit(NoticeRaised(code=NoticeCode(f"store-{trouble_of(exc)}")))
        self._emit_settings()
        self._outbound.apply(self.settings)
        if settings.token or not is_same_login(before, settings):
            self.cancel_sign_in()
            self._tasks.start(self._log_in_again(settings), name="settings")
        elif before.local_model != settings.local_model and self._gateway_status is GatewayStatus.RUNNING:
            self._tasks.start(self._start_gateway(), name="gateway")
        elif (before.ca_file, before.proxy) != (settings.ca_file, settings.proxy):
            self.reconnect()

    async def _log_in_again(self, settings: Settings) -> None:
        if settings.auth is AuthMode.TOKEN and settings.token:
            await self._identity.keep_token(settings)
        await self._switch()

    def _emit_settings(self) -> None:
        self.emit(SettingsChanged(self.settings, locked=self._preset.locked, models=self._preset.models))

    # --- sign-in

    def sign_in(self) -> None:
        """Open the system browser (OIDC). `SignInChanged` follows."""
        if self.settings.auth is AuthMode.OIDC and self._signing_in is None:
            self._signing_in = self._tasks.start(self._sign_in(self.settings), name="sign-in")

    def cancel_sign_in(self) -> None:
        """Do not wait for the browser any more."""
        if self._signing_in is not None:
            self._signing_in.cancel()

    def sign_out(self) -> None:
        """Forget the tokens; the local data stays and is shown again after the next sign-in of that user."""
        self.cancel_sign_in()
        self._tasks.start(self._sign_out(), name="sign-out")

    async def _sign_in(self, settings: Settings) -> None:
        try:
            login = await self._identity.sign_in(settings)
            async with self._lock:
                await self._close_account()
                await self._open_account(login)
        except SignInError as exc:
            self.emit(NoticeRaised(code=NoticeCode.SIGN_IN_FAILED, facts={"reason": exc.failure.value}))
            self._emit_sign_in()
        except asyncio.CancelledError:
            self._emit_sign_in()
            raise
        finally:
            self._signing_in = None

    def _emit_sign_in(self) -> None:
        """Emit the sign-in status after a sign-in that failed."""
        token_source = None if self._login is None else self._login.token_source
        if token_source is None:
            self.emit(SignInChanged(status=SignInStatus.SIGNED_OUT))
        else:
            user = token_source.identity.name or token_source.identity.subject
            self.emit(SignInChanged(status=SignInStatus.SIGNED_IN, user=user))

    async def _sign_out(self) -> None:
        async with self._lock:
            await self._close_account()
            if self.settings.auth is not AuthMode.NONE:
                await self._identity.forget(self.settings)
        await self._switch()

    def _token_failed(self, error: SignInError) -> None:
        """Called by the token function, within the client."""
        account = self._account
        if account is None:
            return
        account.tracker.is_token_missing = True
        if error.is_final:
            self.emit(NoticeRaised(code=NoticeCode.SIGN_IN_FAILED, facts={"reason": error.failure.value}))
            self.emit(SignInChanged(status=SignInStatus.SIGNED_OUT))
            self._tasks.start(account.sign_out(), name="signed-out")

    # --- the local gateway

    @property
    def is_gateway_ours(self) -> bool:
        """Whether the app runs the server itself."""
        return self._gateway_status in (GatewayStatus.STARTING, GatewayStatus.RUNNING)

    def start_gateway(self) -> None:
        """Start a gateway with the embedded model on this machine. `GatewayChanged` follows."""
        if not self.is_gateway_ours:
            self._tasks.start(self._start_gateway(), name="gateway")

    async def _start_gateway(self) -> None:
        """In place of the one that runs. Only one task does so at a time: the status says that it starts."""
        profile, address = self.environment.profile, address_of(self.settings.server_url)
        if address is None or self._gateway_status is GatewayStatus.STARTING or not self._may_start_gateway():
            return
        self._emit_gateway(GatewayStatus.STARTING)
        model = None
        while model != self.settings.local_model:  # another may be chosen while it starts
            model = self.settings.local_model
            if self._gateway is not None:
                await self._gateway.stop()
            self._gateway = LocalGateway(  # known before it runs, so that the app does not quit without it
                data_dir=profile.gateway_folder,
                log_path=profile.gateway_log_path,
                command=self.environment.gateway_command,
                arguments=(*self.environment.gateway_arguments, *self._model_arguments()),
                on_end=self._gateway_failed,
            )
            try:
                await self._gateway.start(*address)
            except GatewayFailed:
                self._gateway_failed()
                return
        self._emit_gateway(GatewayStatus.RUNNING)
        self.find_local_models()
        self.on_account(lambda account: account.reconnect())

    def _model_arguments(self) -> tuple[str, ...]:
        """What the gateway answers with: the model of the settings, and the embedded one beside it."""
        name = self.settings.local_model
        if not name:
            return ()
        embedded = ("--model", "local") if can_start() else ()
        return ("--model", spec_of(self.environment.ollama_url, name), *embedded)

    def find_local_models(self) -> None:
        """Look for an Ollama on this machine. `LocalModelsFound` follows."""
        self._tasks.start(self._find_local_models(), name="ollama")

    async def _find_local_models(self, *, and_offer: bool = False) -> None:
        """`and_offer`: then offer to start a gateway, if there is a model for it."""
        names = await models_at(self.environment.ollama_url)
        self.emit(LocalModelsFound(names))
        if and_offer and (names or can_start()) and self._gateway_status is GatewayStatus.UNKNOWN:
            self._emit_gateway(GatewayStatus.OFFERED)

    def _gateway_failed(self) -> None:
        self._emit_gateway(GatewayStatus.FAILED)
        log_path = str(self.environment.profile.gateway_log_path)
        self.emit(NoticeRaised(code=NoticeCode.GATEWAY_FAILED, facts={"log": log_path}))

    def _emit_gateway(self, status: GatewayStatus) -> None:
        if status is not self._gateway_status:
            self._gateway_status = status
            log_path = str(self.environment.profile.gateway_log_path)
            self._out(GatewayChanged(status=status, url=self.settings.server_url, log=log_path))

    def _find_gateway(self, connection: ConnectionChanged) -> None:
        """What the connection says about a gateway on this machine."""
        if self._gateway_status in (GatewayStatus.STARTING, GatewayStatus.RUNNING, GatewayStatus.FAILED):
            return
        is_nowhere = connection.reason is ConnectionReason.REFUSED
        is_elsewhere = address_of(self.settings.server_url) is None
        is_anothers = is_nowhere and not self._may_start_gateway()
        if connection.status is ConnectionStatus.ONLINE or is_elsewhere or is_anothers:
            self._emit_gateway(GatewayStatus.NOT_OURS)
        elif is_nowhere:
            if self.settings.starts_gateway and (self.settings.local_model or can_start()):
                self.start_gateway()
            elif self._gateway_status is not GatewayStatus.OFFERED:
                self._gateway_status = GatewayStatus.UNKNOWN
                self._tasks.start(self._find_local_models(and_offer=True), name="ollama")

    def _may_start_gateway(self) -> bool:
        """Not where another server had the conversations that are shown: ours does not have them."""
        try:
            return self._account is None or self._account.may_start_gateway
        except StoreError:
            return False

    # --- inside

    def emit(self, event: Event) -> None:
        self._out(event)
        if isinstance(event, ConnectionChanged):
            self._find_gateway(event)
            if (
                event.status is ConnectionStatus.SIGNED_OUT
                and self._login is not None
                and self._login.token_source is not None
            ):
                self._login.token_source.invalidate()
