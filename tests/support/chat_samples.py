"""A chat pane with sample conversations, for tests, for pictures, and for looking at it while it is made.

`python tests/support/chat_samples.py FOLDER` writes a picture of each scene; with QT_QPA_PLATFORM=offscreen no screen
is needed.
"""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PySide6.QtCore import QEventLoop, QTimer
from PySide6.QtWidgets import QApplication

from answerback.client import ServerLimits, Usage
from answerback_desktop.engine.events import (
    AccountOpened,
    ConnectionChanged,
    ConnectionReason,
    ConnectionStatus,
    TurnsLoaded,
)
from answerback_desktop.records import (
    Account,
    Conversation,
    Failure,
    FailureCode,
    Times,
    Turn,
    TurnStatus,
)
from answerback_desktop.settings import Language
from answerback_desktop.texts import Texts, texts_of
from answerback_desktop.ui.chat import ChatPane
from answerback_desktop.ui.chat.prose import FoldView
from answerback_desktop.ui.parts import Appearance
from answerback_desktop.ui.theme import Scheme, Theme, apply
from answerback_desktop.viewmodels.app import AppViewModel

ENGLISH = texts_of(Language.ENGLISH, system_locale="en-GB")
KOREAN_TEXTS = texts_of(Language.KOREAN, system_locale="ko-KR")
CHAT_EN, CHAT_KO = ENGLISH.chat, KOREAN_TEXTS.chat
HOME = "c1"

MARKDOWN = """\
A **binary search** halves the range at every step, so it needs about `log2(n)` comparisons. It only works on a \
*sorted* sequence.

## How it works

1. Look at the middle element.
2. If it is the one you want, stop.
3. Otherwise go on in the half where it must be:
   - the left half if it is larger,
   - the right half if it is smaller.

```python
def find(items: list[int], wanted: int) -> int | None:
    \"\"\"The index of `wanted` in sorted `items`, or None.\"\"\"
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2  # never overflows in Python
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(items) and items[low] == wanted else None
```

The cost, beside a plain loop over the same list, which looks at every element until it finds the one:

| Elements | Loop (worst) | Binary search |
|---------:|-------------:|:--------------|
| 10 | 10 | 4 |
| 1,000 | 1,000 | 10 |
| 1,000,000 | 1,000,000 | 20 |

> Sorting first costs *n* log *n*, so it pays only if you search often.

See [the module `bisect`](https://docs.python.org/3/library/bisect.html) for one that is ready to use.
"""

KOREAN = """\
**WebSocket**은 한 번 연결하면 양쪽이 언제든지 메시지를 보낼 수 있는 통신 방식이에요. \
반면 HTTP는 클라이언트가 물어봐야만 서버가 대답해요. 🙂

- **HTTP**: 요청 하나에 응답 하나
- **WebSocket**: 연결을 유지하면서 실시간으로 주고받기

```javascript
const socket = new WebSocket("wss://example.com");
socket.onmessage = (event) => console.log("받음:", event.data); // 실시간
```

| 항목 | HTTP | WebSocket |
|---|---|---|
| 방향 | 단방향 | 양방향 |
| 연결 | 요청마다 | 계속 유지 |
"""

RICH = """\
<think>
The user wants steps. I look at `curl` first.

1. Say what is needed.
</think>

The area is $A = \\pi r^2$, so half of it is \\(\\frac{1}{2}\\pi r^2\\), and it costs $5 or $10.

$$
\\begin{aligned}
\\text{정확도} &= \\frac{\\text{맞은 수}}{\\text{전체 수}} \\\\
\\int_0^1 x^2\\,dx &= \\frac{1}{3}
\\end{aligned}
$$

1. **Install** it:

   ```bash
   curl -fsS https://example.com/install.sh | sh
     --prefix=/opt
   ```

   This takes a minute.
2. **Run** it:
   - with `tool start`
     > A quote in an item.
   - or as a service
3. Done. See https://example.com/a?x=1.

> [!WARNING]
> Back up **first**.
>
> It is lost otherwise.

| Sign | Meaning |
|:---:|---:|
| `x \\| y` | one or<br>both |
| $x^2$ | https://example.com/averyveryverylongwordthatnevereverends/andgoeson |

H<sub>2</sub>O, press <kbd>Ctrl</kbd>+<kbd>C</kbd>, <mark>look</mark>.[^1]

- [x] written
- [ ] tested

```js
if (level != 'user\u202e \u2066// admin\u2069 \u2066') {}
```

[https://www.bank.example/login](https://evil.example.net/x)

<details>
<summary>More</summary>

Hidden **text**.

</details>

[^1]: As measured in May.
"""

RICH_KOREAN = """\
## 설치 방법

먼저 **파이썬(3.11 이상)**이 필요합니다. **중요:**한글도, **"따옴표"**도 굵게 보입니다.

1. **받기:** 다음을 실행하세요.
   ```bash
   git clone https://example.com/a.git
   ```
2. **설정(필수):**
   - `config.toml`을 엽니다.
   - 값 $n$을 정합니다: $n = \\lceil \\log_2 m \\rceil$
3. https://example.kr/docs에서 더 읽어 보세요.

> [!TIP]
> **“천천히”**가 빠릅니다.

$$\\text{정확도} = \\frac{\\text{맞은 수}}{\\text{전체 수}}$$
"""


class Recorder:
    """The engine's commands, noted: `calls` has each name with its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append((name, *args, *kwargs.values()))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of one command."""
        return [call[1:] for call in self.calls if call[0] == name]


def turn(request_id: str, question: str, answer: str = "", **more: Any) -> Turn:
    """A completed turn of the sample conversation; `more` changes its fields."""
    number = int("".join(filter(str.isdigit, request_id)) or 0)
    whole = Turn(
        request_id=request_id,
        conversation_id=HOME,
        question=question,
        answer=answer,
        asked_at_ms=1_700_000_000_000 + number * 1_000,
        status=TurnStatus.COMPLETED,
        attempt=1,
        model="smollm2-135m",
        tokens=Usage(input_tokens=24, output_tokens=max(1, len(answer) // 4)),
        times=Times(queued_ms=12, first_text_ms=340, total_ms=4_210),
    )
    return replace(whole, **more)


ONLINE = ConnectionChanged(
    status=ConnectionStatus.ONLINE,
    user="kim",
    models=("smollm2-135m",),
    limits=ServerLimits(
        max_message_bytes=131_072,
        max_frame_bytes=32_768,
        max_answer_bytes=262_144,
        requests_per_minute=10,
        max_pending=1_000,
        max_tokens=4_096,
        idle_timeout_ms=3_600_000,
        answer_timeout_ms=120_000,
        queue_timeout_ms=600_000,
    ),
)
OFFLINE = ConnectionChanged(status=ConnectionStatus.OFFLINE, reason=ConnectionReason.LOST)


def app_with(turns: Iterable[Turn], *, connection: ConnectionChanged = ONLINE) -> tuple[AppViewModel, Recorder]:
    """An app whose one conversation has these turns and is open."""
    recorder = Recorder()
    app = AppViewModel(recorder)
    home = Conversation(conversation_id=HOME, title="Searching", created_at_ms=1, updated_at_ms=1)
    account = Account(key="k", server_url="ws://127.0.0.1:8765", user="kim")
    app.apply([AccountOpened(account=account, conversations=(home,), pending=(), drafts={}), connection])
    app.open(HOME)
    app.apply([TurnsLoaded(conversation_id=HOME, turns=tuple(turns), has_more=False)])
    return app, recorder


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture."""

    turns: tuple[Turn, ...] = ()
    scheme: Scheme = Scheme.LIGHT
    texts: Texts = ENGLISH
    width: int = 860
    height: int = 900
    body_px: int = 15
    connection: ConnectionChanged = ONLINE
    after: Callable[[ChatPane], None] = field(default=lambda pane: None)


def _scroll_up(pane: ChatPane) -> None:
    bar = pane.transcript.verticalScrollBar()
    bar.setValue(bar.maximum() // 3)


def _edit(pane: ChatPane) -> None:
    pane.transcript.edit_last()


def _unfold(pane: ChatPane) -> None:
    fold = next(view for view in pane.transcript.views if isinstance(view, FoldView))
    fold.button.click()


def _find(pane: ChatPane, phrase: str) -> None:
    pane.open_find()
    pane.find_bar.open(phrase)


def scenes() -> dict[str, Scene]:
    """Everything worth looking at."""
    hello = turn("r1", "What is binary search, and when is it worth it?", MARKDOWN)
    rate = Failure(code=FailureCode.RATE_LIMITED, is_retryable=True, retry_at_ms=round(time.time() * 1000) + 23_000)
    states = (
        turn("r1", "Tell me a story about the sea", "Once upon a time, by the sea,", status=TurnStatus.CANCELLED),
        turn("r2", "And one that is very long", "The lighthouse stood…", finish_reason="length"),
        turn("r3", "Again?", status=TurnStatus.FAILED, failure=rate),
        turn(
            "r4",
            "Why did it fail?",
            "It began well, but",
            status=TurnStatus.FAILED,
            failure=Failure(code=FailureCode.MODEL_FAILED, is_retryable=True),
        ),
        turn(
            "r5",
            "May I?",
            status=TurnStatus.FAILED,
            failure=Failure(code=FailureCode.FORBIDDEN, is_retryable=False),
        ),
        turn("r6", "Next question", "", status=TurnStatus.STREAMING, tokens=None, times=None),
        turn("r7", "And the one after that", "", status=TurnStatus.QUEUED, position=1, tokens=None, times=None),
        turn("r8", "The last one", "", status=TurnStatus.OUTBOX, tokens=None, times=None),
    )
    streaming = (
        turn("r1", "Hi!", "Hello! How can I help you today?"),
        turn(
            "r2",
            "What is binary search?\nPlease show code as well.",
            MARKDOWN[:900],
            status=TurnStatus.STREAMING,
            tokens=None,
            times=None,
        ),
    )
    korean = (turn("r1", "WebSocket이 HTTP와 어떻게 다른지 쉽게 설명해 줘", KOREAN),)
    hostile = (
        turn(
            "r1",
            "x" * 300 + " https://example.com/" + "path/" * 40,
            "<img src=http://evil.example/a.png> <script>alert(1)</script> ![a cat](file:///etc/passwd) "
            "[click](javascript:alert(1)) [web](https://example.com)\n\n" + "W" * 400 + "\n\n"
            "### A heading with `code` and a very long word " + "o" * 90 + "\n\n- [x] done\n- [ ] open\n\n---\n\n"
            "| a | b | c | d | e | f |\n|---|---|---|---|---|---|\n"
            "| some longer text here that wraps | two | three | four | five is longer too | six |\n"
            "| https://example.com/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa | 2 | 3 | 4 | 5 | 6 |\n\n"
            "```\n" + "a very long line of code that goes on and on " * 5 + "\n```\n",
        ),
    )
    long_question = (turn("r1", "\n".join(f"Line {n}: some text of a long question" for n in range(40)), "Noted."),)
    rich, korean_rich = (turn("r1", "Everything?", RICH),), (turn("r1", "어떻게 설치하나요?", RICH_KOREAN),)
    return {
        "rich": Scene(turns=rich, height=1_700, after=_unfold),
        "rich-dark": Scene(turns=rich, height=1_700, scheme=Scheme.DARK),
        "rich-korean": Scene(turns=korean_rich, texts=KOREAN_TEXTS),
        "find": Scene(turns=(hello,), height=1_000, after=lambda pane: _find(pane, "search")),
        "selected": Scene(turns=(hello,), height=1_000, after=lambda pane: pane.transcript.selection.select_all()),
        "light": Scene(turns=(hello,), height=1_250),
        "dark": Scene(turns=(hello,), scheme=Scheme.DARK, height=1_250),
        "korean": Scene(turns=korean, texts=KOREAN_TEXTS),
        "korean-dark": Scene(turns=korean, texts=KOREAN_TEXTS, scheme=Scheme.DARK),
        "states": Scene(turns=states, height=1_050),
        "states-dark": Scene(turns=states, scheme=Scheme.DARK, height=1_050),
        "states-narrow": Scene(turns=states, width=420, texts=KOREAN_TEXTS, height=1_150),
        "streaming": Scene(turns=streaming),
        "scrolled": Scene(turns=(hello, *streaming), height=600, after=_scroll_up),
        "empty": Scene(height=700),
        "empty-dark-narrow": Scene(scheme=Scheme.DARK, width=420, height=640, texts=KOREAN_TEXTS),
        "offline": Scene(turns=(hello, states[7]), connection=OFFLINE, height=700),
        "offline-narrow": Scene(turns=(states[7],), connection=OFFLINE, height=560, width=420, scheme=Scheme.DARK),
        "hostile": Scene(turns=hostile, height=1_100),
        "narrow": Scene(turns=(hello,), width=420, height=1_000),
        "large": Scene(turns=(hello,), body_px=24, height=1_200),
        "long-question": Scene(turns=long_question, height=700),
        "editing": Scene(turns=(turn("r1", "What is a heap?", "A tree."),), height=420, after=_edit),
        "draft": Scene(
            turns=(turn("r1", "Hi", "Hello!"),),
            height=520,
            after=lambda pane: pane.composer.box.setPlainText("One line\n" * 12 + "the last one"),
        ),
        "too-long": Scene(
            turns=(turn("r1", "Hi", "Hello!"),),
            height=520,
            after=lambda pane: pane.composer.box.setPlainText("x" * 140_000),
        ),
    }


def pane_of(scene: Scene, application: QApplication) -> tuple[ChatPane, AppViewModel, Recorder]:
    """The scene's pane, shown."""
    theme = Theme(scheme=scene.scheme, body_px=scene.body_px)
    apply(application, theme)
    app, recorder = app_with(scene.turns, connection=scene.connection)
    pane = ChatPane(app, Appearance(theme=theme, texts=scene.texts))
    pane.resize(scene.width, scene.height)
    pane.show()
    pane.focus_composer()
    scene.after(pane)
    return pane, app, recorder


def main(folder: Path, only: list[str]) -> None:
    """Write a picture of each scene."""
    application = QApplication([])
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in scenes().items():
        if only and name not in only:
            continue
        pane, _, _ = pane_of(scene, application)
        loop = QEventLoop()
        QTimer.singleShot(250, loop.quit)
        loop.exec()
        pane.grab().save(str(folder / f"{name}.png"))
        pane.close()
        pane.deleteLater()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
