"""The pane as a whole: which page it shows, drafts, the outbox, links, and the order of what happens."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs
from PySide6.QtCore import QEvent, QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent, QImage
from PySide6.QtWidgets import QApplication, QLabel, QPushButton
from pytestqt.qtbot import QtBot

from answerback.client import Attachment, File, ModelInfo
from answerback_desktop.engine.events import (
    AccountClosed,
    ConversationsChanged,
    DraftReturned,
    TextAppended,
    TurnChanged,
    TurnsLoaded,
)
from answerback_desktop.records import Conversation, TurnStatus
from answerback_desktop.ui.chat import ChatPane
from answerback_desktop.ui.chat.attach import AttachDialog
from answerback_desktop.ui.chat.links import LinkDialog
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.viewmodels.app import AppViewModel
from chat_samples import HOME, ONLINE, Recorder, turn

Opened = Callable[..., tuple[ChatPane, AppViewModel, Recorder]]
OTHER = Conversation(conversation_id="c2", title="Other", created_at_ms=2, updated_at_ms=2)


def open_other(pane: ChatPane, app: AppViewModel) -> None:
    app.apply([ConversationsChanged(changed=(OTHER,))])
    app.open("c2")
    pane.apply(app.apply([]))


def test_an_empty_conversation_offers_questions(opened: Opened) -> None:
    pane, _, recorder = opened()
    assert pane.stack.currentWidget() is pane.empty
    pane.empty.examples[1].click()
    assert recorder.named("ask")[0][2] == pane.empty.examples[1].text()


def test_loading_is_shown_until_the_page_comes(opened: Opened) -> None:
    pane, app, _ = opened(turn("r1", "q", "a"))
    open_other(pane, app)
    assert pane.stack.currentWidget() is pane.loading
    page = TurnsLoaded(conversation_id="c2", turns=(), has_more=False)
    pane.apply(app.apply([page]))
    assert pane.stack.currentWidget() is pane.empty


def test_asking_clears_the_box_and_shows_the_question(opened: Opened, qtbot: QtBot) -> None:
    pane, app, recorder = opened()
    qtbot.keyClicks(pane.composer.box, "Hello?")
    qtbot.keyClick(pane.composer.box, Qt.Key.Key_Return)
    ((conversation_id, request_id, text, _, _),) = recorder.named("ask")
    assert (conversation_id, text, pane.composer.text) == (HOME, "Hello?", "")
    asked = turn("r1", text, status=TurnStatus.OUTBOX)
    pane.apply(app.apply([TurnChanged(asked)]))
    assert pane.stack.currentWidget() is pane.transcript
    assert request_id


def test_asking_with_no_conversation_open_begins_one(opened: Opened, qtbot: QtBot) -> None:
    pane, app, recorder = opened()
    app.current = None
    pane.apply(app.apply([]))
    with qtbot.waitSignal(pane.conversation_needed):
        pane.composer.sent.emit("Hello?")
    assert app.current is not None
    assert recorder.named("ask")[0][0] == app.current.conversation_id


def test_a_click_on_the_name_of_a_file_wants_it(opened: Opened) -> None:
    files = tuple(
        Attachment(sha256=letter * 64, size=5, media_type="text/plain", name=f"<b>{letter}</b>.txt") for letter in "ab"
    )
    pane, _, recorder = opened(turn("r1", "q", "a", attachments=files))
    label = pane.transcript.views[0].files_label
    assert "&lt;b&gt;a&lt;/b&gt;.txt" in label.text()
    label.linkActivated.emit("1")
    assert recorder.named("fetch_file") == [(files[1],)]


def test_drafts_belong_to_their_conversation(opened: Opened, qtbot: QtBot) -> None:
    pane, app, recorder = opened(turn("r1", "q", "a"))
    qtbot.keyClicks(pane.composer.box, "half a qu")
    assert recorder.named("save_draft")[-1] == (HOME, "half a qu")
    open_other(pane, app)
    assert pane.composer.text == ""
    app.open(HOME)
    pane.apply(app.apply([]))
    assert pane.composer.text == "half a qu"


def test_a_question_that_could_not_be_taken_is_back_in_the_box(opened: Opened) -> None:
    pane, app, _ = opened(turn("r1", "q", "a"))
    pane.apply(app.apply([DraftReturned(conversation_id=HOME, text="too long")]))
    assert pane.composer.text == "too long"


def test_offline_is_reported_and_can_be_tried(opened: Opened) -> None:
    pane, _, recorder = opened(turn("r1", "q", "a"))
    assert pane.banner.isHidden()
    pane.tell_offline("The network is gone.")
    assert not pane.banner.isHidden()
    assert pane.banner.text.text().startswith("The network is gone. ")
    pane.banner.button.click()
    assert recorder.named("reconnect") == [()]
    pane.tell_offline("")
    assert pane.banner.isHidden()


def test_text_of_another_conversation_changes_nothing_here(opened: Opened) -> None:
    pane, app, _ = opened(turn("r1", "q", "mine"))
    before = list(pane.transcript.views)
    app.apply([ConversationsChanged(changed=(OTHER,))])
    foreign = TextAppended(conversation_id="c2", request_id="r1", attempt=1, offset=4, delta=" theirs")
    pane.apply(app.apply([foreign]))
    pane.flush()
    assert list(pane.transcript.views) == before


def test_many_batches_are_drawn_once_a_frame(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    pane, app, _ = opened(turn("r1", "q", "", status=TurnStatus.STREAMING))
    drawn: list[set[str]] = []
    refresh = pane.transcript.refresh
    monkeypatch.setattr(pane.transcript, "refresh", lambda ids: (drawn.append(set(ids)), refresh(ids)))
    for at in range(10):
        event = TextAppended(conversation_id=HOME, request_id="r1", attempt=1, offset=at, delta="x")
        pane.apply(app.apply([event]))
    assert drawn == [{"r1"}], "the first at once, the others with the next frame"
    pane.flush()
    assert drawn == [{"r1"}, {"r1"}]


def test_stop_stops_everything_that_is_open_here(opened: Opened) -> None:
    pane, app, recorder = opened(turn("r1", "q", "a"))
    pane.apply(app.apply([TurnChanged(turn("r2", "q", "", status=TurnStatus.STREAMING))]))
    assert pane.composer.button.accessibleName() == "Stop"
    pane.composer.button.click()
    assert recorder.named("stop") == [("r2",)]
    pane.apply(app.apply([TurnChanged(turn("r2", "q", "done"))]))
    assert pane.composer.button.accessibleName() == "Send"


def test_a_link_asks_first(opened: Opened) -> None:
    pane, _, _ = opened(turn("r1", "q", "[x](https://a.example)"))
    pane.transcript.signals.link.emit("https://a.example", "a")
    assert len(pane.findChildren(LinkDialog)) == 1
    pane.transcript.signals.link.emit("javascript:alert(1)", "b")
    assert len(pane.findChildren(LinkDialog)) == 1


def test_signing_out_leaves_nothing_on_the_screen(opened: Opened) -> None:
    pane, app, _ = opened(turn("r1", "q", "secret"))
    pane.apply(app.apply([AccountClosed()]))
    assert pane.transcript.views == []
    assert pane.stack.currentWidget() is pane.empty
    assert pane.composer.text == ""


def test_a_turn_can_be_shown_from_a_search(opened: Opened, appearance: Appearance) -> None:
    pane, _, _ = opened(*(turn(f"r{n}", f"Question {n}?", "Some words.\n\n" * 10) for n in range(50)), height=500)
    pane.show_turn("r7")
    first = next(view for view in pane.transcript.views if view.y() + view.height() > 0)
    assert first.turn.request_id in {"r7", "r6"}
    assert not pane.transcript.is_pinned


def test_a_turn_of_an_older_page_is_loaded_and_shown(opened: Opened) -> None:
    pane, app, recorder = opened()
    newer = tuple(turn(f"r{n}", f"Question {n}?", "Some words.\n\n" * 10) for n in range(100, 120))
    pane.apply(app.apply([TurnsLoaded(conversation_id=HOME, turns=newer, has_more=True)]))
    pane.show_turn("r85")
    assert recorder.named("load_more") == [(HOME, "r100")]
    older = tuple(turn(f"r{n}", f"Question {n}?", "Some words.\n\n" * 10) for n in range(80, 100))
    pane.apply(app.apply([TurnsLoaded(conversation_id=HOME, turns=older, has_more=False)]))
    first = next(view for view in pane.transcript.views if view.y() + view.height() > 0)
    assert first.turn.request_id in {"r85", "r84"}
    pane.show_turn("gone")
    assert recorder.named("load_more") == [(HOME, "r100")]


def attach_dialog(pane: ChatPane) -> AttachDialog:
    [dialog] = pane.findChildren(AttachDialog)
    return dialog


def test_a_dropped_text_file_is_shown_and_goes_into_the_question(opened: Opened, tmp_path: Path) -> None:
    pane, _, _ = opened(turn("r1", "q", "a"))
    (tmp_path / "표.csv").write_bytes("이름,금액\n".encode("cp949"))
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(tmp_path / "표.csv"))])
    pane.composer.set_text("Sum this up")
    assert pane.composer.box.canInsertFromMimeData(mime)
    pane.composer.box.insertFromMimeData(mime)
    assert pane.composer.text == "Sum this up", "nothing before the person has seen it"
    dialog = attach_dialog(pane)
    assert dialog.preview.toPlainText() == "표.csv:\n```csv\n이름,금액\n```\n"
    assert any("CP949" in label.text() for label in dialog.findChildren(QLabel))
    assert dialog.focusWidget() is dialog.add_button
    dialog.add_button.click()
    assert pane.composer.text == "Sum this up\n표.csv:\n```csv\n이름,금액\n```\n"
    assert pane.composer.box.hasFocus()


def test_an_image_is_refused_in_words(opened: Opened) -> None:
    pane, _, _ = opened(turn("r1", "q", "a"))
    mime = QMimeData()
    mime.setImageData(QImage(4, 4, QImage.Format.Format_RGB32))
    pane.composer.box.insertFromMimeData(mime)
    dialog = attach_dialog(pane)
    assert any("This model takes no images" in label.text() for label in dialog.findChildren(QLabel))
    assert [button.text() for button in dialog.findChildren(QPushButton)] == ["Close"]
    assert pane.composer.text == ""


def test_files_may_be_dropped_anywhere_on_the_conversation(opened: Opened, tmp_path: Path) -> None:
    pane, _, _ = opened(turn("r1", "q", "a"))
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7")
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(tmp_path / "a.pdf")), QUrl.fromLocalFile(str(tmp_path))])
    button, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    pane.dropEvent(QDropEvent(QPointF(9, 9), Qt.DropAction.CopyAction, mime, button, keys))
    shown = " ".join(label.text() for label in attach_dialog(pane).findChildren(QLabel))
    assert "This model takes no PDF files" in shown
    assert "A folder cannot be sent" in shown


ALL_FILES = replace(
    ONLINE,
    limits=structs.replace(ONLINE.limits, max_attachment_bytes=4 << 20),
    model_info={"smollm2-135m": ModelInfo(attachments=("text", "image", "document"))},
)


def test_a_pasted_image_goes_with_the_question_and_can_be_let_go(opened: Opened) -> None:
    pane, app, recorder = opened(turn("r1", "q", "a"), connection=ALL_FILES)
    mime = QMimeData()
    mime.setImageData(QImage(4, 4, QImage.Format.Format_RGB32))
    for _ in range(2):
        pane.composer.box.insertFromMimeData(mime)
        dialog = attach_dialog(pane)
        assert any(not label.pixmap().isNull() for label in dialog.findChildren(QLabel)), "it is shown"
        dialog.add_button.click()
        dialog.deleteLater()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert len(pane.composer.chips) == 2
    height = pane.composer.height()
    pane.composer.chips[0].click()
    assert len(pane.composer.chips) == 1
    pane.composer.box.setPlainText("What is it?")
    pane.composer.button.click()
    ((_, _, text, _, files),) = recorder.named("ask")
    assert (text, [one.media_type for one in files]) == ("What is it?", ["image/png"])
    assert pane.composer.chips == []
    assert pane.composer.height() < height
    assert app.current is not None
    assert app.current.files == ()


def test_what_was_asked_with_files_is_asked_again_with_them(opened: Opened) -> None:
    attached = File(name="a.pdf", data=b"%PDF-1.7").attachment
    pane, app, recorder = opened(turn("r1", "q", "a", attachments=(attached,)), connection=ALL_FILES)
    assert any("a.pdf" in label.text() for label in pane.transcript.findChildren(QLabel))
    assert app.current is not None
    app.current.regenerate("r1")
    app.current.edit_and_resend("r1", "other words")
    assert [one[2:] for one in recorder.named("ask")] == [
        ("q", "r1", (attached,)),
        ("other words", "r1", (attached,)),
    ]


def test_files_that_come_back_are_shown(opened: Opened) -> None:
    pane, app, _ = opened(turn("r1", "q", "a"), connection=ALL_FILES)
    file = File(name="a.pdf", data=b"%PDF-1.7")
    pane.apply(app.apply([DraftReturned(conversation_id=HOME, text="q", files=(file,))]))
    assert (pane.composer.text, [chip.toolTip() for chip in pane.composer.chips]) == ("q", ["a.pdf"])


def test_pasting_megabytes_is_refused_at_once_and_in_words(opened: Opened) -> None:
    pane, _, _ = opened(turn("r1", "q", "a"))
    mime = QMimeData()
    mime.setText("x" * 5_000_000)
    pane.composer.box.insertFromMimeData(mime)
    assert pane.composer.text == ""
    assert pane.composer.notice.text().startswith("The text has 4.8 MB")
    pane.composer.box.insertPlainText("short")
    assert pane.composer.notice.text() == ""
