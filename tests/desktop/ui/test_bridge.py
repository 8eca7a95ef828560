"""Events to changes, often while something happens and seldom while nothing does."""

import pytest
from PySide6.QtWidgets import QApplication

from answerback_desktop.app import Bridge
from answerback_desktop.engine.events import NoticeCode, NoticeRaised
from answerback_desktop.viewmodels import AppViewModel
from commands import NotedCommands


@pytest.fixture
def events():
    return []


@pytest.fixture
def bridge(qapp: QApplication, events):
    def drain():
        taken, events[:] = list(events), []
        return taken

    bridge = Bridge(AppViewModel(NotedCommands()), drain)
    yield bridge
    bridge.stop()


def test_what_happened_is_reported_once(bridge, events, qtbot):
    told = []
    bridge.changed.connect(told.append)
    events += [NoticeRaised(code=NoticeCode.STORE_FAILED)]
    bridge.start()
    assert [changes.notices for changes in told] == [True]
    bridge.pump()
    assert len(told) == 1


def test_the_timer_drains_by_itself(bridge, events, qtbot):
    bridge.start()
    with qtbot.waitSignal(bridge.changed, timeout=10_000):
        events += [NoticeRaised(code=NoticeCode.STORE_FAILED)]


def test_an_idle_app_polls_seldom_and_a_hidden_one_more_so(bridge, events):
    def idle():
        for _ in range(200):
            bridge.pump()
        return bridge.interval_ms

    bridge.start()
    busy_ms = bridge.interval_ms
    assert busy_ms <= 34
    idle_ms = idle()
    assert idle_ms > busy_ms
    events += [NoticeRaised(code=NoticeCode.STORE_FAILED)]
    bridge.pump()
    assert bridge.interval_ms == busy_ms
    bridge.set_hidden(True)
    assert idle() > idle_ms
    bridge.wake()
    assert bridge.interval_ms == busy_ms
