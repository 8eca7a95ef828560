"""The words of the chat pane, in each language. `{names}` are filled in with `str.format`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from answerback.texts.failures import FAILURES_EN, FAILURES_KO


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTexts:
    """Every field is shown or read out by a screen reader (`…_name`)."""

    # The input box
    placeholder: str
    composer_name: str
    send: str
    stop: str
    too_long: str
    nearly_full: str
    # The empty and the loading state
    empty_title: str
    empty_text: str
    examples: tuple[str, ...]
    loading: str
    # The transcript
    transcript_name: str
    question_name: str
    answer_name: str
    newest: str
    newest_unseen: str
    show_all: str
    show_less: str
    # A turn's line of state
    outbox: str
    outbox_offline: str
    queued: str
    queued_next: str
    waiting: str
    streaming: str
    paused: str
    cancelled: str
    cut: str
    cut_hint: str
    tokens_one: str
    tokens: str
    cost: str
    seconds: str
    queued_for: str
    first_text: str
    total: str
    # What can be done with a turn
    copy: str
    copied: str
    regenerate: str
    edit: str
    retry: str
    retry_in: str
    edit_name: str
    edit_hint: str
    edit_send: str
    cancel: str
    # Code, tables, links
    code: str
    code_name: str
    copy_code: str
    table_name: str
    image: str
    link_title: str
    link_text: str
    link_open: str
    link_copy: str
    link_hidden: str
    # Offline
    offline: str
    offline_retry: str
    # Why it failed
    failures: Mapping[str, str]


CHAT_EN: Final = ChatTexts(
    placeholder="Ask anything",
    composer_name="Your question. Enter sends it, Shift+Enter begins a new line.",
    send="Send",
    stop="Stop",
    too_long="{over} too long to send. Shorten it or split it in two.",
    nearly_full="{left} left",
    empty_title="What can I help with?",
    empty_text="Ask a question below, or begin with one of these.",
    examples=(
        "Explain how WebSockets differ from HTTP, for a beginner",
        "Write a Python function that merges two sorted lists",
        "Suggest a name for a small coffee shop by the sea",
    ),
    loading="Loading the conversation…",
    transcript_name="Conversation",
    question_name="You asked: {text}",
    answer_name="Answer",
    newest="Go to the newest message",
    newest_unseen="New text below. Go to the newest message",
    show_all="Show all",
    show_less="Show less",
    outbox="Waiting to be sent",
    outbox_offline="Kept here until there is a connection",
    queued="In the queue, {position} before it",
    queued_next="Up next",
    waiting="Thinking…",
    streaming="Answering…",
    paused="Continues when the connection is back",
    cancelled="Stopped",
    cut="Cut at the length limit",
    cut_hint="The answer reached the longest length allowed. Ask it to continue.",
    tokens_one="{count} token",
    tokens="{count} tokens",
    cost="≈ {cost}",
    seconds="{seconds} s",
    queued_for="In the queue: {seconds} s",
    first_text="First words after: {seconds} s",
    total="In total: {seconds} s",
    copy="Copy",
    copied="Copied",
    regenerate="Regenerate the answer",
    edit="Edit the question",
    retry="Try again",
    retry_in="Try again in {seconds} s",
    edit_name="Edit the question. Enter sends it, Escape leaves it as it was.",
    edit_hint="This and everything after it will be replaced.",
    edit_send="Send again",
    cancel="Cancel",
    code="Code",
    code_name="Code, {language}",
    copy_code="Copy the code",
    table_name="Table",
    image="[image: {text}]",
    link_title="Open this link?",
    link_text="The answer contains this link. It opens in your browser:",
    link_open="Open in the browser",
    link_copy="Copy the link",
    link_hidden="It contains characters that cannot be seen; they are written out here. Be careful.",
    offline="You are offline. Questions are kept here and sent when the connection is back.",
    offline_retry="Try now",
    failures=FAILURES_EN,
)

CHAT_KO: Final = ChatTexts(
    placeholder="무엇이든 물어보세요",
    composer_name="질문. Enter를 누르면 보내고, Shift+Enter를 누르면 줄을 바꿔요.",
    send="보내기",
    stop="중지",
    too_long="{over} 초과해서 보낼 수 없어요. 줄이거나 둘로 나눠 주세요.",
    nearly_full="{left} 남음",
    empty_title="무엇을 도와드릴까요?",
    empty_text="아래에 질문을 입력하거나, 예시로 시작해 보세요.",
    examples=(
        "WebSocket이 HTTP와 어떻게 다른지 쉽게 설명해 줘",
        "정렬된 두 리스트를 합치는 파이썬 함수를 작성해 줘",
        "바닷가 작은 카페에 어울리는 이름을 지어 줘",
    ),
    loading="대화를 불러오는 중…",
    transcript_name="대화 내용",
    question_name="내 질문: {text}",
    answer_name="답변",
    newest="맨 아래로 이동",
    newest_unseen="아래에 새 내용이 있어요. 맨 아래로 이동",
    show_all="모두 보기",
    show_less="접기",
    outbox="전송 대기 중",
    outbox_offline="연결되면 바로 보낼게요",
    queued="대기 중 · 앞에 {position}개",
    queued_next="다음 차례예요",
    waiting="생각하는 중…",
    streaming="답변하는 중…",
    paused="연결되면 이어서 답변해요",
    cancelled="중지됨",
    cut="길이 제한으로 잘림",
    cut_hint="답변이 허용된 최대 길이에 도달했어요. 이어서 답해 달라고 해 보세요.",
    tokens_one="토큰 {count}개",
    tokens="토큰 {count}개",
    cost="약 {cost}",
    seconds="{seconds}초",
    queued_for="대기: {seconds}초",
    first_text="첫 글자까지: {seconds}초",
    total="전체: {seconds}초",
    copy="복사",
    copied="복사됨",
    regenerate="다시 답변",
    edit="질문 수정",
    retry="다시 시도",
    retry_in="{seconds}초 뒤 다시 시도",
    edit_name="질문 수정. Enter를 누르면 보내고, Esc를 누르면 그대로 둬요.",
    edit_hint="이 질문과 그 뒤의 내용이 모두 바뀌어요.",
    edit_send="다시 보내기",
    cancel="취소",
    code="코드",
    code_name="코드, {language}",
    copy_code="코드 복사",
    table_name="표",
    image="[이미지: {text}]",
    link_title="이 링크를 열까요?",
    link_text="답변에 들어 있는 링크예요. 브라우저에서 열려요.",
    link_open="브라우저에서 열기",
    link_copy="링크 복사",
    link_hidden="눈에 보이지 않는 문자가 있어서 풀어서 적었어요. 주의하세요.",
    offline="오프라인이에요. 질문은 여기에 두었다가 연결되면 보낼게요.",
    offline_retry="지금 다시 시도",
    failures=FAILURES_KO,
)
