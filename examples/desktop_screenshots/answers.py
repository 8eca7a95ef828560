"""A model that knows a few questions by heart.

Run it: answerback serve --model python:examples.desktop_screenshots.answers:make

Its answers come word by word, like a real model's. A question with "slowly" in its system prompt waits after each word,
so that a picture can be taken while it streams.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Final

from answerback.ports import Prompt

WORD_S: Final = 0.004
SLOW_WORD_S: Final = 0.12

FRAMES: Final = """\
Frames are the unit of WebSocket. Both sides cut what they want to say into **frames**, and each frame \
begins with a header of 2 to 14 bytes:

| Bits | Name | What it says |
|---|---|---|
| 1 | `FIN` | this is the last frame of the message |
| 4 | opcode | text, binary, close, ping or pong |
| 1 | `MASK` | the payload is masked (always, from the client) |
| 7, 16 or 64 | length | of the payload |

A client masks its payload with four random bytes, so that a proxy in between cannot mistake it for HTTP:

```python
import os


def masked(payload: bytes) -> tuple[bytes, bytes]:
    \"\"\"The key, and the payload as it goes over the wire.\"\"\"
    key = os.urandom(4)
    return key, bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
```

That is all there is to it; see [RFC 6455](https://www.rfc-editor.org/rfc/rfc6455#section-5.2), section 5.2.
"""

PACKING: Final = """\
For three days of rain and wind by the sea, pack **layers** rather than thick things:

1. A shell that keeps out wind *and* water, with a hood
2. A fleece or a thin down jacket
3. Two pairs of trousers that dry overnight
4. Wool socks, one pair more than you think 🧦

> A dry bag costs little and saves the evening.

Leave the umbrella at home: the wind at the coast turns it inside out before you have crossed the street.
"""

REVIEW: Final = """\
Two things stand out.

- `total` is read before the lock is taken, so two threads can both see the old value.
- The `except Exception` hides a `KeyError` that would tell you the id was wrong.

```diff
-total = account.total
-with account.lock:
-    account.total = total + amount
+with account.lock:
+    account.total += amount
```
"""

BUSAN: Final = """\
비 오는 날의 부산도 좋아요. 하루 일정으로 이렇게 다녀 보세요. ☔

1. **오전** · 영도 흰여울문화마을의 바다 보이는 카페
2. **점심** · 자갈치시장에서 뜨끈한 *복국* 한 그릇
3. **오후** · 국립해양박물관 (무료, 월요일 휴관)
4. **저녁** · 서면에서 돼지국밥

| 구간 | 교통 | 시간 |
|---|---|---|
| 부산역 → 영도 | 버스 82번 | 20분 |
| 영도 → 자갈치 | 버스 7번 | 15분 |
| 자갈치 → 서면 | 지하철 1호선 | 14분 |

> 바람이 강하니 우산보다 우비를 챙기세요.
"""

KEIGO: Final = """\
「拝見する」は謙譲語、「ご覧になる」は尊敬語です。**自分の動作**なら前者、**相手の動作**なら後者を使います。

- 資料を**拝見しました**。(私が見た)
- 資料を**ご覧になりました**か。(相手が見た)
"""

CURVE: Final = r"""The **normal distribution** has the density

$$f(x) = \frac{1}{\sigma\sqrt{2\pi}}\, e^{-\frac{(x-\mu)^2}{2\sigma^2}}$$

with the mean $\mu$ and the variance $\sigma^2$. About 68 % of all values lie within $\mu \pm \sigma$, since

\[
\int_{\mu-\sigma}^{\mu+\sigma} f(x)\,dx = \operatorname{erf}\!\left(\tfrac{1}{\sqrt{2}}\right) \approx 0.6827
\]

> [!NOTE]
> The sum of many small effects comes near to it, whatever each is like.[^clt]

| Within | Share |
|---|---:|
| $\mu \pm 1\sigma$ | 68.27 % |
| $\mu \pm 2\sigma$ | 95.45 % |
| $\mu \pm 3\sigma$ | 99.73 % |

[^clt]: The central limit theorem.
"""

ANSWERS: Final = {
    "frame": FRAMES,
    "normal distribution": CURVE,
    "pack": PACKING,
    "review": REVIEW,
    "부산": BUSAN,
    "敬語": KEIGO,
}
OTHERWISE: Final = "That is a good question. The short answer is **yes**; the long one depends on what you measure."


async def answer(prompt: Prompt) -> AsyncIterator[str]:
    """The text that belongs to the first word that it knows."""
    question = prompt.messages[-1].text.casefold()
    text = next((known for word, known in ANSWERS.items() if word in question), OTHERWISE)
    pause_s = SLOW_WORD_S if "slowly" in (prompt.system or "") else WORD_S
    for piece in re.findall(r"\S+\s*", text):
        yield piece
        await asyncio.sleep(pause_s)


def make() -> Callable[[Prompt], AsyncIterator[str]]:
    """What the gateway calls once."""
    return answer
