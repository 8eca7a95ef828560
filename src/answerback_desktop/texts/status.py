"""What the app says about the connection, the first run, and what went wrong: closed codes, each with what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from answerback_desktop.engine.events import ConnectionReason, NoticeCode
from answerback_desktop.signin.provider import SignInFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusTexts:
    """`{names}` are filled in with `str.format`; those of `notices` are the facts of the notice."""

    # The indicator
    online: str
    connecting: str
    offline: str
    retry_in: str
    signed_out: str
    stopped: str
    indicator_name: str
    # Its details
    details_title: str
    server: str
    user: str
    round_trip: str
    round_trip_ms: str
    models: str
    rate: str
    rate_unlimited: str
    rate_a_minute: str
    outbox: str
    outbox_hint: str
    nobody_answers: str
    retry_now: str
    sign_in: str
    open_settings: str
    reasons: Mapping[ConnectionReason, str]
    notices: Mapping[NoticeCode, str]
    sign_in_failures: Mapping[SignInFailure, str]
    # The first run
    welcome_title: str
    welcome_text: str
    start_title: str
    start_text: str
    start: str
    connect_title: str
    connect_text: str
    connect: str
    server_url: str
    user_name: str
    user_placeholder: str
    bad_url: str
    bad_user: str
    starting_title: str
    starting_text: str
    start_failed_title: str
    gateway_stopped: str
    start_failed_text: str
    start_again: str
    show_log: str
    later: str
    welcome_signin_title: str
    welcome_signin_text: str
    browser_title: str
    browser_text: str
    browser_copy_link: str
    cancel: str


STATUS_EN: Final = StatusTexts(
    online="Connected",
    connecting="Connecting…",
    offline="Offline",
    retry_in="Offline · trying again in {seconds} s",
    signed_out="Signed out",
    stopped="Not connected",
    indicator_name="Connection: {state}. Shows the details.",
    details_title="Connection",
    server="Server",
    user="You are",
    round_trip="Round trip",
    round_trip_ms="{ms} ms",
    models="Models",
    rate="Questions",
    rate_unlimited="no limit",
    rate_a_minute="{count} a minute",
    outbox="Waiting to be sent",
    outbox_hint="{count}, sent as soon as there is a connection",
    nobody_answers="Nobody answers at {url}.",
    retry_now="Try now",
    sign_in="Sign in…",
    open_settings="Settings…",
    reasons={
        ConnectionReason.NONE: "Everything is working.",
        ConnectionReason.UNREACHABLE: "Nobody answers at this address. Check that the gateway runs there and that the "
        "address is right; the app keeps trying.",
        ConnectionReason.LOST: "The connection was lost. The app reconnects by itself; answers continue where they "
        "stopped, and what you write is sent then.",
        ConnectionReason.SIGN_IN_NEEDED: "The server wants to know who you are. Sign in, or enter a token in the "
        "settings.",
        ConnectionReason.SIGN_IN_UNREACHABLE: "The sign-in service does not answer. The app keeps trying; check your "
        "network.",
        ConnectionReason.FORBIDDEN: "The server does not let you in. Ask whoever runs it, or sign in as somebody else.",
        ConnectionReason.SESSION_REPLACED: "Another app has taken over this connection. “Try now” takes it back.",
        ConnectionReason.USER_MISMATCH: "The server takes you for another user. Check the user name or the token in "
        "the settings.",
        ConnectionReason.BAD_URL: "The server's address cannot be used. Correct it in the settings: "
        "ws://host:port or wss://host.",
        ConnectionReason.CLOSED: "The connection is closed. “Try now” opens it again.",
    },
    notices={
        NoticeCode.MESSAGE_TOO_LARGE: "The question is too long ({size_bytes} of {limit_bytes} bytes). It is back in "
        "the box: shorten it and send it again.",
        NoticeCode.CONVERSATION_GONE: "This conversation was deleted on another device.",
        NoticeCode.UPDATE_FAILED: "The server did not accept the new title or the deletion. Try again.",
        NoticeCode.STORE_MOVED_ASIDE: "The local copy of your conversations was damaged and is being rebuilt "
        "from the server. The old file is kept: {path}",
        NoticeCode.STORE_FAILED: "Nothing can be saved on this computer right now. Free some space on the disk; until "
        "then, what you write may be lost when the app ends.",
        NoticeCode.SETTINGS_MOVED_ASIDE: "The settings could not be read, so the defaults are used. The old file is "
        "kept: {path}",
        NoticeCode.NO_KEYRING: "This computer has no keyring, so you stay signed in only until you quit.",
        NoticeCode.SIGN_IN_FAILED: "The sign-in did not succeed. Try again, or check the sign-in settings.",
        NoticeCode.GATEWAY_FAILED: "The gateway on this computer has stopped. Its log says why: {log}",
        NoticeCode.PROTOCOL_VIOLATION: "The server sent something that makes no sense; nothing of it is shown. If it "
        "happens again, tell whoever runs the server.",
    },
    sign_in_failures={
        SignInFailure.UNREACHABLE: "The sign-in service does not answer. Check your network and the issuer's address.",
        SignInFailure.BAD_PROVIDER: "There is no sign-in service at the issuer's address. Check it in the settings.",
        SignInFailure.DENIED: "The sign-in was refused in the browser. Try again, or with another account.",
        SignInFailure.REFUSED: "The sign-in service does not know this app. Check the client ID, or ask your operator.",
        SignInFailure.BAD_TOKEN: "The sign-in service sent a proof that does not hold. Try again; tell your operator "
        "if it happens again.",
        SignInFailure.TIMEOUT: "No sign-in happened in the browser, so the app stopped waiting. Try again.",
    },
    welcome_title="Welcome to Answerback",
    welcome_text="To answer your questions, the app needs a gateway: the server that the language model runs behind. "
    "Nobody answers at {url} yet.",
    start_title="Start one on this computer",
    start_text="Runs a small English model (SmolLM2, 93 MB, part of the installation) right here. No account, nothing "
    "leaves this computer. It stops when you quit.",
    start="Start the gateway",
    connect_title="Connect to a server",
    connect_text="Your team or somebody you know runs a gateway. Ask them for its address.",
    connect="Connect",
    server_url="Address",
    user_name="Your name there",
    user_placeholder="Optional",
    bad_url="An address begins with ws:// or wss://, such as wss://chat.example.com",
    bad_user="A name has no spaces and at most 128 characters",
    starting_title="Starting the gateway…",
    starting_text="The model is being loaded. This takes a few seconds, and less the next time.",
    start_failed_title="The gateway did not start",
    gateway_stopped="The gateway on this computer is not running.",
    start_failed_text="Its log says why. Often a package is missing: pip install '.[server,local-llm]'",
    start_again="Try again",
    show_log="Show the log",
    later="Not now",
    welcome_signin_title="Sign in to continue",
    welcome_signin_text="The server at {url} wants to know who you are.",
    browser_title="Continue in your browser",
    browser_text="A page has opened there to sign in. If it has not, copy the link and open it yourself.",
    browser_copy_link="Copy the link",
    cancel="Cancel",
)

STATUS_KO: Final = StatusTexts(
    online="연결됨",
    connecting="연결하는 중…",
    offline="오프라인",
    retry_in="오프라인 · {seconds}초 뒤 다시 시도",
    signed_out="로그아웃됨",
    stopped="연결되지 않음",
    indicator_name="연결 상태: {state}. 자세한 내용을 볼 수 있어요.",
    details_title="연결",
    server="서버",
    user="사용자",
    round_trip="왕복 시간",
    round_trip_ms="{ms} ms",
    models="모델",
    rate="질문 수",
    rate_unlimited="제한 없음",
    rate_a_minute="1분에 {count}개",
    outbox="전송 대기",
    outbox_hint="{count}개, 연결되면 바로 보내요",
    nobody_answers="{url}에서 응답이 없어요.",
    retry_now="지금 다시 시도",
    sign_in="로그인…",
    open_settings="설정…",
    reasons={
        ConnectionReason.NONE: "모두 정상이에요.",
        ConnectionReason.UNREACHABLE: "이 주소에서 응답이 없어요. 게이트웨이가 실행 중인지, 주소가 맞는지 확인해 "
        "주세요. 앱은 계속 다시 시도해요.",
        ConnectionReason.LOST: "연결이 끊겼어요. 앱이 알아서 다시 연결하고, 답변은 끊긴 곳부터 이어지며, 그동안 쓴 "
        "질문은 연결되면 보내요.",
        ConnectionReason.SIGN_IN_NEEDED: "서버가 사용자 확인을 요청해요. 로그인하거나 설정에 토큰을 입력해 주세요.",
        ConnectionReason.SIGN_IN_UNREACHABLE: "로그인 서비스가 응답하지 않아요. 앱은 계속 다시 시도하니, 네트워크를 "
        "확인해 주세요.",
        ConnectionReason.FORBIDDEN: "서버가 접속을 허용하지 않아요. 운영자에게 문의하거나 다른 사용자로 로그인해 "
        "주세요.",
        ConnectionReason.SESSION_REPLACED: "다른 앱이 이 연결을 가져갔어요. “지금 다시 시도”를 누르면 되찾을 수 있"
        "어요.",
        ConnectionReason.USER_MISMATCH: "서버가 다른 사용자로 인식하고 있어요. 설정에서 사용자 이름이나 토큰을 확인해 "
        "주세요.",
        ConnectionReason.BAD_URL: "서버 주소를 쓸 수 없어요. 설정에서 ws://host:port 또는 wss://host "
        "형식으로 고쳐 주세요.",
        ConnectionReason.CLOSED: "연결이 닫혔어요. “지금 다시 시도”를 누르면 다시 열려요.",
    },
    notices={
        NoticeCode.MESSAGE_TOO_LARGE: "질문이 너무 길어요 ({limit_bytes}바이트까지 되는데 {size_bytes}바이트예요). "
        "입력창에 되돌려 놓았으니 줄여서 다시 보내 주세요.",
        NoticeCode.CONVERSATION_GONE: "이 대화는 다른 기기에서 삭제되었어요.",
        NoticeCode.UPDATE_FAILED: "서버가 제목 변경이나 삭제를 받아들이지 않았어요. 다시 시도해 주세요.",
        NoticeCode.STORE_MOVED_ASIDE: "이 컴퓨터에 저장된 대화 사본이 손상되어 서버에서 다시 받아요. 이전 파일은 "
        "여기에 있어요: {path}",
        NoticeCode.STORE_FAILED: "지금은 이 컴퓨터에 아무것도 저장할 수 없어요. 디스크 공간을 확보해 주세요. 그 전에 "
        "앱을 끝내면 쓴 내용이 사라질 수 있어요.",
        NoticeCode.SETTINGS_MOVED_ASIDE: "설정을 읽을 수 없어 기본값을 써요. 이전 파일은 여기에 있어요: {path}",
        NoticeCode.NO_KEYRING: "이 컴퓨터에는 키링이 없어서, 앱을 종료할 때까지만 로그인 상태가 유지돼요.",
        NoticeCode.SIGN_IN_FAILED: "로그인하지 못했어요. 다시 시도하거나 로그인 설정을 확인해 주세요.",
        NoticeCode.GATEWAY_FAILED: "이 컴퓨터의 게이트웨이가 멈췄어요. 이유는 로그에 있어요: {log}",
        NoticeCode.PROTOCOL_VIOLATION: "서버가 알 수 없는 내용을 보내서 아무것도 표시하지 않았어요. 다시 일어나면 서버 "
        "운영자에게 알려 주세요.",
    },
    sign_in_failures={
        SignInFailure.UNREACHABLE: "로그인 서비스가 응답하지 않아요. 네트워크와 발급자 주소를 확인해 주세요.",
        SignInFailure.BAD_PROVIDER: "발급자 주소에 로그인 서비스가 없어요. 설정에서 주소를 확인해 주세요.",
        SignInFailure.DENIED: "브라우저에서 로그인이 거부되었어요. 다시 시도하거나 다른 계정을 써 보세요.",
        SignInFailure.REFUSED: "로그인 서비스가 이 앱을 알지 못해요. 클라이언트 ID를 확인하거나 운영자에게 "
        "문의해 주세요.",
        SignInFailure.BAD_TOKEN: "로그인 서비스가 보낸 증명이 올바르지 않아요. 다시 시도해 보고, 또 그러면 운영자에게 "
        "알려 주세요.",
        SignInFailure.TIMEOUT: "브라우저에서 로그인하지 않아 기다리기를 멈췄어요. 다시 시도해 주세요.",
    },
    welcome_title="Answerback에 오신 것을 환영해요",
    welcome_text="질문에 답하려면 언어 모델을 실행하는 서버, 게이트웨이가 필요해요. 아직 {url}에서 응답이 없어요.",
    start_title="이 컴퓨터에서 시작하기",
    start_text="설치에 포함된 작은 영어 모델(SmolLM2, 93 MB)을 바로 여기에서 실행해요. 계정이 필요 없고, 아무 내용도 "
    "이 컴퓨터 밖으로 나가지 않아요. 앱을 종료하면 함께 멈춰요.",
    start="게이트웨이 시작",
    connect_title="서버에 연결하기",
    connect_text="팀이나 아는 사람이 운영하는 게이트웨이가 있다면 주소를 물어보세요.",
    connect="연결",
    server_url="주소",
    user_name="그 서버에서 쓸 이름",
    user_placeholder="선택 사항",
    bad_url="주소는 wss://chat.example.com처럼 ws:// 또는 wss://로 시작해야 해요",
    bad_user="이름에는 공백을 쓸 수 없고 128자까지 쓸 수 있어요",
    starting_title="게이트웨이를 시작하고 있어요…",
    starting_text="모델을 불러오고 있어요. 몇 초 걸리고, 다음번에는 더 빨라요.",
    start_failed_title="게이트웨이를 시작하지 못했어요",
    gateway_stopped="이 컴퓨터의 게이트웨이가 실행되고 있지 않아요.",
    start_failed_text="이유는 로그에 있어요. 패키지가 빠진 경우가 많아요: pip install '.[server,local-llm]'",
    start_again="다시 시도",
    show_log="로그 보기",
    later="나중에",
    welcome_signin_title="로그인이 필요해요",
    welcome_signin_text="{url} 서버가 사용자 확인을 요청해요.",
    browser_title="브라우저에서 이어서 진행해 주세요",
    browser_text="로그인 페이지가 열렸어요. 열리지 않았다면 링크를 복사해 직접 열어 주세요.",
    browser_copy_link="링크 복사",
    cancel="취소",
)
