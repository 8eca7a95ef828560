"""Who writes Korean to a model that knows English only learns it at that moment, in Korean, and how to get another."""

from collections.abc import Callable, Mapping

import pytest

from answerback.client import ModelInfo
from answerback_desktop.engine.events import (
    ConnectionChanged,
    ConnectionStatus,
    Event,
    GatewayChanged,
    GatewayStatus,
    LocalModelsFound,
)
from answerback_desktop.ui.chat import ChatPane
from answerback_desktop.viewmodels.app import AppViewModel
from chat_samples import CHAT_EN, CHAT_KO, KOREAN_TEXTS, Recorder, turn

Opened = Callable[..., tuple[ChatPane, AppViewModel, Recorder]]
ENGLISH = ModelInfo(languages=("en",))


def online(models: Mapping[str, ModelInfo]) -> ConnectionChanged:
    return ConnectionChanged(status=ConnectionStatus.ONLINE, models=tuple(models), model_info=models)


def told(pane: ChatPane) -> tuple[str, str]:
    bar = pane.language_bar
    return ("", "") if bar.isHidden() else (bar.text.text(), bar.button.text() if not bar.button.isHidden() else "")


@pytest.fixture
def writing(opened: Opened) -> Callable[..., tuple[ChatPane, Recorder]]:
    """A pane of a server with these models, in which this is written."""

    def write(text: str, models: Mapping[str, ModelInfo], *events: Event) -> tuple[ChatPane, Recorder]:
        pane, app, recorder = opened(turn("r1", "q", "a"))
        pane.apply(app.apply([online(models), *events]))
        pane.composer.box.insertPlainText(text)
        return pane, recorder

    return write


def test_korean_to_a_model_of_english_is_told_in_korean_though_the_app_is_english(writing: Callable) -> None:
    pane, _ = writing("한국의 수도는?", {"local": ENGLISH})
    text, offer = told(pane)
    assert text.startswith("local은 영어만 알아요.")
    assert "운영자" in text
    assert offer == ""
    pane.composer.box.clear()
    assert told(pane) == ("", "")


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("What is the capital of Korea?", {"local": ENGLISH}),
        ("한국의 수도는?", {"wise": ModelInfo()}),
        ("한국의 수도는?", {"wise": ModelInfo(languages=("en", "ko-KR"))}),
        ("", {"local": ENGLISH}),
    ],
)
def test_who_can_be_understood_is_told_nothing(writing: Callable, text: str, models: Mapping[str, ModelInfo]) -> None:
    assert told(writing(text, models)[0]) == ("", "")


def test_another_language_is_told_in_the_language_of_the_app(writing: Callable) -> None:
    titled = ModelInfo(languages=("en",), title="SmolLM2 135M")
    text, _ = told(writing("東京はどこですか", {"local": titled})[0])
    assert text.startswith("SmolLM2 135M knows English only.")


def test_another_model_of_the_server_is_offered_first(writing: Callable) -> None:
    pane, recorder = writing("한국의 수도는?", {"local": ENGLISH, "wise": ModelInfo()})
    assert told(pane)[1] == "wise 쓰기"
    pane.language_bar.button.click()
    assert recorder.named("change_settings")[0][0].model == "wise"


def test_an_ollama_is_offered_to_the_apps_own_gateway(writing: Callable) -> None:
    own = GatewayChanged(status=GatewayStatus.RUNNING)
    pane, recorder = writing("한국의 수도는?", {"local": ENGLISH}, own)
    assert recorder.named("find_local_models") == [()]
    assert "ollama.com" in told(pane)[0]
    pane.apply(pane._app.apply([LocalModelsFound(("exaone:latest",))]))
    assert told(pane)[1] == "exaone:latest 쓰기"
    pane.language_bar.button.click()
    assert recorder.named("change_settings")[0][0].local_model == "exaone:latest"


def test_it_stays_until_the_next_question_is_written(writing: Callable) -> None:
    pane, _ = writing("한국의 수도는?", {"local": ENGLISH})
    pane.composer.button.click()
    assert told(pane)[0].startswith("local은 영어만 알아요.")
    pane.composer.box.insertPlainText("What is")
    assert told(pane) == ("", "")


def test_examples_are_in_a_language_that_the_model_knows(opened: Opened) -> None:
    pane, app, _ = opened(texts=KOREAN_TEXTS)
    assert [button.text() for button in pane.empty.examples] == list(CHAT_KO.examples)
    pane.apply(app.apply([online({"local": ENGLISH})]))
    assert [button.text() for button in pane.empty.examples] == list(CHAT_EN.examples)
    pane.apply(app.apply([online({"wise": ModelInfo()})]))
    assert [button.text() for button in pane.empty.examples] == list(CHAT_KO.examples)
