"""The composition root of the desktop app: makes its parts, joins them and ends them."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from PySide6.QtCore import QLibraryInfo, QLocale, QObject, QSettings, Qt, QTimer, QTranslator, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QApplication

from answerback import __version__
from answerback_desktop.engine import Engine, Environment
from answerback_desktop.engine.events import Event
from answerback_desktop.profile import Profile, ProfileInUse, ProfileLock
from answerback_desktop.settings import Preset, Settings, SettingsFile
from answerback_desktop.texts import Texts, texts_of
from answerback_desktop.ui.process import CrashWatch, InstanceServer, StopSignals, open_log, raise_running
from answerback_desktop.ui.theme import apply, theme_of
from answerback_desktop.ui.window.main_window import MainWindow
from answerback_desktop.ui.window.notifications import Toast, Tray, app_icon
from answerback_desktop.viewmodels import AppViewModel, Changes

log = logging.getLogger("answerback.desktop")
CLOSE_S: Final = 8.0
"""What the engine gets to write everything down and to stop a gateway of its own."""

_BUSY_MS: Final = 33
_IDLE_MS: Final = 100
_HIDDEN_MS: Final = 250
_IDLE_AFTER: Final = 60
"""Empty polls before the timer slows down: two seconds."""


class Bridge(QObject):
    """Connects the engine's thread with the widgets: drains `drain` into `app` and emits `changed(Changes)`.

    It polls 30 times a second while something happens. An idle app polls ten times a second, one whose window is hidden
    four times: new text is then never on screen later than that, and a laptop sleeps.
    """

    changed = Signal(object)

    def __init__(
        self, app: AppViewModel, drain: Callable[[], Sequence[Event]], *, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._app = app
        self._drain = drain
        self._empty = 0
        self._is_hidden = False
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.CoarseTimer)
        self._timer.timeout.connect(self.pump)

    @property
    def interval_ms(self) -> int:
        return self._timer.interval()

    def start(self) -> None:
        self._timer.start(_BUSY_MS)
        self.pump()

    def stop(self) -> None:
        self._timer.stop()

    def wake(self) -> None:
        """Poll fast again: what a person did should show at once."""
        self._empty = 0
        self._pace(_BUSY_MS)

    def set_hidden(self, is_hidden: bool) -> None:
        """Whether nobody can see the window."""
        self._is_hidden = is_hidden
        self.wake()

    def pump(self) -> None:
        events = self._drain()
        if not events:
            self._empty += 1
            if self._empty >= _IDLE_AFTER:
                self._pace(_HIDDEN_MS if self._is_hidden else _IDLE_MS)
            return
        self._empty = 0
        self._pace(_HIDDEN_MS if self._is_hidden else _BUSY_MS)
        self.changed.emit(self._app.apply(events))

    def _pace(self, interval_ms: int) -> None:
        if self._timer.isActive() and self._timer.interval() != interval_ms:
            self._timer.setInterval(interval_ms)


class DesktopApp(QObject):
    """One run of the app: the engine, the bridge, the window, the tray.

    `start()`, then Qt's event loop; `finish()` ends the engine and then the loop.
    """

    def __init__(self, application: QApplication, profile: Profile, *, engine: Engine | None = None) -> None:
        super().__init__()
        self._application = application
        self._profile = profile
        self.engine = engine or Engine(Environment(profile=profile, gateway_command=_own_command()))
        self.view_model = AppViewModel(self.engine)
        self.bridge = Bridge(self.view_model, self.engine.drain, parent=self)
        self._texts = self._texts_of(self.view_model.settings)
        self.tray = Tray(self._texts, self)
        self.window: MainWindow | None = None
        self._is_finishing = False
        self._translator = QTranslator(self)

    def start(self) -> MainWindow:
        """Start the engine and show the window. Raises: OSError: the profile's folder cannot be used."""
        self.engine.start()
        first = self.view_model.apply(self.engine.drain())
        settings = self.view_model.settings
        self._texts = self._texts_of(settings)
        self._speak(self._texts)
        theme = theme_of(settings, self._application)
        apply(self._application, theme)
        state = QSettings(str(self._profile.folder / "window.ini"), QSettings.Format.IniFormat)
        self.tray.set_texts(self._texts)
        window = MainWindow(
            self.view_model, self._texts, theme, state=state, tray=self.tray, log_path=self._profile.log_path
        )
        self.window = window
        window.quit_wanted.connect(self.finish)
        window.visibility_changed.connect(lambda is_visible: self.bridge.set_hidden(not is_visible))
        window.acted.connect(self.bridge.wake)
        self.bridge.changed.connect(self._changed)
        self._application.styleHints().colorSchemeChanged.connect(self._scheme_changed)
        window.apply(first)
        window.show()
        self.bridge.start()
        log.info("the app has started, version %s, profile %s", __version__, self._profile.name)
        return window

    def finish(self) -> None:
        """Hide the window at once, write everything down, then end."""
        if self._is_finishing or self.window is None:
            return
        self._is_finishing = True
        self.window.keep_state()
        self.window.hide()
        self.tray.set_shown(False)
        self.engine.close()
        self.bridge.set_hidden(False)
        QTimer.singleShot(int(CLOSE_S * 1000), self._end)

    def dispose(self) -> None:
        """Delete every object of this run after the event loop has ended."""
        self.bridge.stop()
        self._application.removeTranslator(self._translator)
        self.engine.close()
        if not self.engine.join(CLOSE_S):
            log.warning("the engine did not end in time")
        if self.window is not None:
            self.window.deleteLater()
            self.window = None

    def something_went_wrong(self) -> None:
        """Show that a defect was caught."""
        if self.window is None or self._is_finishing:
            return
        words, path = self._texts.window, str(self._profile.log_path)
        show = lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(path))  # noqa: E731
        self.window.toasts.show_toast(Toast(text=words.something_wrong, action=words.show_log, act=show, lasts=True))

    def _changed(self, changes: Changes) -> None:
        if self.window is not None:
            if changes.settings:
                self._follow_settings(self.window)
            self.window.apply(changes)
        if changes.stopped:
            self._end()

    def _follow_settings(self, window: MainWindow) -> None:
        settings = self.view_model.settings
        window.set_theme(theme_of(settings, self._application))
        texts = self._texts_of(settings)
        if texts != self._texts:
            self._texts = texts
            self._speak(texts)
            window.set_texts(texts)

    def _speak(self, texts: Texts) -> None:
        """Let Qt's own menus and dialogs speak the language of the app."""
        self._application.removeTranslator(self._translator)
        folder = QLibraryInfo.path(QLibraryInfo.LibraryPath.TranslationsPath)
        if self._translator.load(f"qtbase_{texts.language.value}", folder):
            self._application.installTranslator(self._translator)

    def _scheme_changed(self) -> None:
        if self.window is not None:
            self.window.set_theme(theme_of(self.view_model.settings, self._application))

    @staticmethod
    def _texts_of(settings: Settings) -> Texts:
        return texts_of(settings.language, system_locale=QLocale.system().name().replace("_", "-"))

    def _end(self) -> None:
        self.bridge.stop()
        if self._is_finishing:
            self._application.quit()


def run(profile: Profile, preset: Preset, given: Mapping[str, object]) -> bool:
    """Run the app until the person ends it. `given`: settings from the command line, which are kept in the profile.

    Returns: false: the profile was open already, and its window was brought to the front.
    Raises: OSError: the profile's folder cannot be used; ProfileInUse: it is open in an app that does not answer.
    """
    application, lock = _application(), ProfileLock(profile)
    try:
        lock.acquire()
    except ProfileInUse:
        if raise_running(profile.folder):
            return False
        raise
    try:
        handler = open_log(profile.log_path)
        watch = CrashWatch(profile.folder / "crash.log")
        watch.install()
        try:
            if given:
                file = SettingsFile(profile.settings_path, preset)
                file.save(msgspec.structs.replace(file.load(), **given))
            _run_in(application, profile, watch)
        finally:
            watch.remove()
            logging.getLogger("answerback").removeHandler(handler)
            handler.close()
    finally:
        lock.release()
    return True


def _run_in(application: QApplication, profile: Profile, watch: CrashWatch) -> None:
    app = DesktopApp(application, profile)
    instance_server, signals = InstanceServer(profile.folder), StopSignals()
    watch.happened.connect(app.something_went_wrong)
    signals.came.connect(app.finish)
    instance_server.listen()
    signals.install()
    try:
        window = app.start()
        instance_server.raise_asked.connect(window.bring_to_front)
        application.exec()
    finally:
        signals.remove()
        instance_server.close()
        app.dispose()


def _own_command() -> tuple[str, ...]:
    """How to run the `answerback` command: a packaged app is that command itself."""
    return (sys.executable,) if getattr(sys, "frozen", False) else (sys.executable, "-m", "answerback")


def _application() -> QApplication:
    """Qt's one object. High DPI is its default."""
    running = QApplication.instance()
    if isinstance(running, QApplication):
        return running
    application = QApplication([Path(sys.argv[0]).name or "answerback"])
    application.setApplicationName("answerback")
    application.setApplicationDisplayName("Answerback")
    application.setApplicationVersion(__version__)
    application.setDesktopFileName("answerback")
    application.setQuitOnLastWindowClosed(False)
    application.setWindowIcon(app_icon())
    return application
