"""The words of the settings, in each language."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from answerback_desktop.settings import AuthMode, Field, Language, Theme


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencesTexts:
    """`…_hint` stands below a field. `problems` stand beside a field that cannot be used as it is."""

    title: str
    save: str
    cancel: str
    page_server: str
    page_answers: str
    page_appearance: str
    page_manners: str
    server_url: str
    server_url_hint: str
    auth: str
    auth_modes: Mapping[AuthMode, str]
    auth_hints: Mapping[AuthMode, str]
    user: str
    user_placeholder: str
    token: str
    token_kept: str
    token_hint: str
    oidc_issuer: str
    oidc_client_id: str
    sign_in: str
    sign_out: str
    signed_in_as: str
    signed_in: str
    signed_out: str
    sign_in_save_first: str
    sign_in_waiting: str
    sign_in_cancel: str
    starts_gateway: str
    starts_gateway_hint: str
    model: str
    model_default: str
    model_hint: str
    system: str
    system_placeholder: str
    system_hint: str
    max_tokens: str
    max_tokens_default: str
    max_tokens_hint: str
    theme: str
    themes: Mapping[Theme, str]
    font_size: str
    font_size_unit: str
    language: str
    languages: Mapping[Language, str]
    notifications: str
    notifications_hint: str
    tray: str
    tray_hint: str
    tray_missing: str
    log: str
    show_log: str
    problems: Mapping[Field, str]


_NAMES_OF_LANGUAGES: Final = {Language.ENGLISH: "English", Language.KOREAN: "한국어"}
"""Each in itself, so that whoever ended up in the wrong one finds the way back."""

PREFERENCES_EN: Final = PreferencesTexts(
    title="Settings",
    save="Save",
    cancel="Cancel",
    page_server="Server",
    page_answers="Answers",
    page_appearance="Appearance",
    page_manners="Behaviour",
    server_url="Address",
    server_url_hint="ws:// on this computer or in a trusted network, wss:// everywhere else.",
    auth="Who you are",
    auth_modes={AuthMode.NONE: "By name", AuthMode.OIDC: "Sign in", AuthMode.TOKEN: "Token"},
    auth_hints={
        AuthMode.NONE: "For a gateway that trusts everyone who reaches it.",
        AuthMode.OIDC: "In your browser, with an OpenID Connect service. Ask your operator for the two values.",
        AuthMode.TOKEN: "For development: what `answerback token` prints.",
    },
    user="Name",
    user_placeholder="anonymous",
    token="Token",  # noqa: S106 - a label
    token_kept="One is stored; leave empty to keep it",  # noqa: S106 - a label
    token_hint="Kept in the keyring of this computer, never in a file.",  # noqa: S106 - a label
    oidc_issuer="Issuer",
    oidc_client_id="Client ID",
    sign_in="Sign in…",
    sign_out="Sign out",
    signed_in_as="Signed in as {user}",
    signed_in="Signed in",
    signed_out="Not signed in",
    sign_in_save_first="The sign-in begins when you save.",
    sign_in_waiting="Waiting for your browser…",
    sign_in_cancel="Stop waiting",
    starts_gateway="Start a gateway on this computer when none answers",
    starts_gateway_hint="With the small model that is part of the installation; it stops when you quit.",
    model="Model",
    model_default="Default of the server",
    model_hint="New questions are asked of this model.",
    system="System prompt",
    system_placeholder="For example: Answer briefly, and in the language of the question.",
    system_hint="Told to the model before every question. Empty: the server's own.",
    max_tokens="Longest answer",
    max_tokens_default="Default of the server",
    max_tokens_hint="In tokens; about three quarters of a word each.",
    theme="Theme",
    themes={Theme.SYSTEM: "Same as the system", Theme.LIGHT: "Light", Theme.DARK: "Dark"},
    font_size="Text size",
    font_size_unit=" pt",
    language="Language",
    languages={Language.SYSTEM: "Same as the system", **_NAMES_OF_LANGUAGES},
    notifications="Notify me when an answer ends while I am elsewhere",
    notifications_hint="The notification names the conversation, never the words of the answer.",
    tray="Keep running in the tray when the window is closed",
    tray_hint="Answers go on coming. Quit with Ctrl+Q or from the tray's menu.",
    tray_missing="This desktop has no tray; closing the window quits.",
    log="Log file",
    show_log="Show",
    problems={
        Field.SERVER_URL: "An address begins with ws:// or wss://, such as wss://chat.example.com",
        Field.USER: "A name has no spaces and at most 128 characters",
        Field.TOKEN: "A token has no spaces or line breaks; copy it again",
        Field.OIDC_ISSUER: "The issuer's address begins with https://",
        Field.OIDC_CLIENT_ID: "Enter the client ID that your operator gave you",
        Field.SYSTEM: "The text has a character that cannot be sent; write it again",
        Field.MAX_TOKENS: "Choose a number from 1 to 1,000,000",
        Field.FONT_SIZE: "Choose a size from 8 to 32",
    },
)

PREFERENCES_KO: Final = PreferencesTexts(
    title="설정",
    save="저장",
    cancel="취소",
    page_server="서버",
    page_answers="답변",
    page_appearance="화면",
    page_manners="동작",
    server_url="주소",
    server_url_hint="이 컴퓨터나 믿을 수 있는 네트워크에서는 ws://, 그 밖에는 wss://를 쓰세요.",
    auth="사용자 확인",
    auth_modes={AuthMode.NONE: "이름", AuthMode.OIDC: "로그인", AuthMode.TOKEN: "토큰"},
    auth_hints={
        AuthMode.NONE: "접속하는 모두를 신뢰하는 게이트웨이에서 써요.",
        AuthMode.OIDC: "브라우저에서 OpenID Connect 서비스로 로그인해요. 아래 두 값은 운영자에게 문의하세요.",
        AuthMode.TOKEN: "개발용이에요. `answerback token`이 출력하는 값을 넣으세요.",
    },
    user="이름",
    user_placeholder="anonymous",
    token="토큰",  # noqa: S106 - a label
    token_kept="저장된 토큰이 있어요. 그대로 쓰려면 비워 두세요",  # noqa: S106 - a label
    token_hint="파일이 아니라 이 컴퓨터의 키링에만 보관해요.",  # noqa: S106 - a label
    oidc_issuer="발급자",
    oidc_client_id="클라이언트 ID",
    sign_in="로그인…",
    sign_out="로그아웃",
    signed_in_as="{user}(으)로 로그인됨",
    signed_in="로그인됨",
    signed_out="로그인하지 않음",
    sign_in_save_first="저장하면 로그인을 시작해요.",
    sign_in_waiting="브라우저를 기다리고 있어요…",
    sign_in_cancel="그만 기다리기",
    starts_gateway="응답하는 게이트웨이가 없으면 이 컴퓨터에서 시작하기",
    starts_gateway_hint="설치에 포함된 작은 모델로 실행하고, 앱을 종료하면 함께 멈춰요.",
    model="모델",
    model_default="서버 기본값",
    model_hint="새 질문은 이 모델이 답해요.",
    system="시스템 프롬프트",
    system_placeholder="예: 질문과 같은 언어로 간단하게 답해 주세요.",
    system_hint="질문할 때마다 모델에 먼저 전달해요. 비워 두면 서버의 기본값을 써요.",
    max_tokens="최대 답변 길이",
    max_tokens_default="서버 기본값",
    max_tokens_hint="토큰 단위예요. 한글은 한 글자가 한두 토큰 정도예요.",
    theme="테마",
    themes={Theme.SYSTEM: "시스템 설정에 맞춤", Theme.LIGHT: "밝게", Theme.DARK: "어둡게"},
    font_size="글자 크기",
    font_size_unit=" pt",
    language="언어",
    languages={Language.SYSTEM: "시스템 설정에 맞춤", **_NAMES_OF_LANGUAGES},
    notifications="다른 일을 하는 동안 답변이 끝나면 알려 주기",
    notifications_hint="알림에는 대화 제목만 나오고 답변 내용은 나오지 않아요.",
    tray="창을 닫아도 트레이에서 계속 실행하기",
    tray_hint="답변을 계속 받아요. 종료하려면 Ctrl+Q 또는 트레이 메뉴를 쓰세요.",
    tray_missing="이 데스크톱에는 트레이가 없어서 창을 닫으면 종료돼요.",
    log="로그 파일",
    show_log="보기",
    problems={
        Field.SERVER_URL: "주소는 wss://chat.example.com처럼 ws:// 또는 wss://로 시작해야 해요",
        Field.USER: "이름에는 공백을 쓸 수 없고 128자까지 쓸 수 있어요",
        Field.TOKEN: "토큰에는 공백이나 줄 바꿈이 없어요. 다시 복사해 주세요",
        Field.OIDC_ISSUER: "발급자 주소는 https://로 시작해야 해요",
        Field.OIDC_CLIENT_ID: "운영자에게 받은 클라이언트 ID를 입력해 주세요",
        Field.SYSTEM: "보낼 수 없는 문자가 있어요. 다시 써 주세요",
        Field.MAX_TOKENS: "1부터 1,000,000까지의 수를 골라 주세요",
        Field.FONT_SIZE: "8부터 32까지의 크기를 골라 주세요",
    },
)
