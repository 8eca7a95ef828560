"""Why a question failed, by the code of the protocol, for people. The desktop app and the commands share these."""

from collections.abc import Mapping
from typing import Final

FAILURES_EN: Final[Mapping[str, str]] = {
    "invalid_frame": "The server could not read this question. Update the app, then ask again.",
    "message_too_large": "This question is too long. Edit it and send a shorter one.",
    "unauthorized": "You are signed out. Sign in, then try again.",
    "forbidden": "You are not allowed to ask this here. The server's operator can tell you why.",
    "user_mismatch": "The server takes you for another user. Check the user name in the settings.",
    "session_replaced": "Another app took over this session. Reconnect, then ask again.",
    "rate_limited": "That was a lot of questions in one minute. Wait a moment, then try again.",
    "overloaded": "Too many of your questions are still open. Wait for an answer, then try again.",
    "request_conflict": "This question got mixed up with another one. Ask it again.",
    "unknown_request": "The server no longer knows this question. Ask it again.",
    "model_unavailable": "The model cannot be reached. Try again later, or choose another model.",
    "model_throttled": "The model is busy. Try again in a moment.",
    "model_failed": "The model stopped in the middle of its answer. Try again.",
    "timeout": "The answer took too long. Try again, perhaps with a shorter question.",
    "unavailable": "The server cannot take questions right now. Try again in a moment.",
    "internal": "Something went wrong on the server. Try again.",
    "protocol_violation": "The server sent something that does not belong to this question. It is not shown.",
}

FAILURES_KO: Final[Mapping[str, str]] = {
    "invalid_frame": "서버가 이 질문을 읽지 못했어요. 앱을 업데이트한 뒤 다시 물어봐 주세요.",
    "message_too_large": "질문이 너무 길어요. 수정해서 더 짧게 보내 주세요.",
    "unauthorized": "로그아웃된 상태예요. 로그인한 뒤 다시 시도해 주세요.",
    "forbidden": "여기서는 이 질문을 할 수 없어요. 이유는 서버 운영자에게 문의해 주세요.",
    "user_mismatch": "서버가 다른 사용자로 인식하고 있어요. 설정에서 사용자 이름을 확인해 주세요.",
    "session_replaced": "다른 앱이 이 연결을 가져갔어요. 다시 연결한 뒤 물어봐 주세요.",
    "rate_limited": "1분 동안 질문을 너무 많이 보냈어요. 잠시 뒤 다시 시도해 주세요.",
    "overloaded": "아직 끝나지 않은 질문이 너무 많아요. 답변을 기다린 뒤 다시 시도해 주세요.",
    "request_conflict": "이 질문이 다른 질문과 뒤섞였어요. 새로 물어봐 주세요.",
    "unknown_request": "서버에 이 질문이 더 이상 없어요. 새로 물어봐 주세요.",
    "model_unavailable": "모델에 연결할 수 없어요. 나중에 다시 시도하거나 다른 모델을 골라 주세요.",
    "model_throttled": "모델이 바빠요. 잠시 뒤 다시 시도해 주세요.",
    "model_failed": "모델이 답변을 끝내지 못했어요. 다시 시도해 주세요.",
    "timeout": "답변이 너무 오래 걸렸어요. 질문을 줄여서 다시 시도해 보세요.",
    "unavailable": "지금은 서버가 질문을 받을 수 없어요. 잠시 뒤 다시 시도해 주세요.",
    "internal": "서버에 문제가 생겼어요. 다시 시도해 주세요.",
    "protocol_violation": "서버가 이 질문과 맞지 않는 내용을 보내서 표시하지 않았어요.",
}
