"""The words of the window around the chat, in each language. `{names}` are filled in with `str.format`."""

from dataclasses import dataclass
from typing import Final

__all__ = ["WINDOW_EN", "WINDOW_KO", "WindowTexts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTexts:
    """Sidebar, header, tray, menus and the dialogs over the window. `…_name` are read by screen readers."""

    # The sidebar
    sidebar_name: str
    show_sidebar: str
    hide_sidebar: str
    new_conversation: str
    untitled: str
    search: str
    search_name: str
    clear_search: str
    list_name: str
    results_name: str
    no_conversations: str
    no_conversations_hint: str
    found_nothing: str
    found_nothing_hint: str
    found_title: str
    draft: str
    answering: str
    waiting: str
    queued: str
    interrupted: str
    unread_name: str
    yesterday: str
    rename: str
    rename_name: str
    export_markdown: str
    export_json: str
    delete: str
    # The header
    model_name: str
    model_default: str
    model_default_named: str
    model_gone: str
    more: str
    settings: str
    # Passing messages
    deleted: str
    undo: str
    dismiss: str
    exported: str
    export_failed: str
    export_title: str
    markdown_files: str
    json_files: str
    show_file: str
    something_wrong: str
    show_log: str
    # The tray and notifications
    tray_open: str
    tray_quit: str
    tray_unread: str
    tray_stays: str
    notify_answered: str
    notify_failed: str
    # Help
    help: str
    help_title: str
    help_hint: str
    keys_conversations: str
    keys_writing: str
    keys_window: str
    key_new: str
    key_search: str
    key_next: str
    key_previous: str
    key_rename: str
    key_delete: str
    key_send: str
    key_new_line: str
    key_stop: str
    key_sidebar: str
    key_settings: str
    key_larger: str
    key_smaller: str
    key_usual_size: str
    key_help: str
    key_close: str
    key_quit: str
    # About
    about: str
    about_title: str
    about_version: str
    about_what: str
    about_licence: str
    about_qt: str
    about_qt_source: str
    about_others: str
    about_log: str
    close: str
    copy: str
    copied: str


WINDOW_EN: Final = WindowTexts(
    sidebar_name="Conversations and search",
    show_sidebar="Show the conversations",
    hide_sidebar="Hide the conversations",
    new_conversation="New conversation",
    untitled="New conversation",
    search="Search",
    search_name="Search in all conversations",
    clear_search="Clear the search",
    list_name="Conversations",
    results_name="Search results",
    no_conversations="No conversations yet",
    no_conversations_hint="Ask something. Your questions and their answers are kept here.",
    found_nothing="Nothing found",
    found_nothing_hint="No title, question or answer contains “{query}”.",
    found_title="in the title",
    draft="Draft: {text}",
    answering="Answering…",
    waiting="Waiting to be sent",
    queued="Waiting for its turn",
    interrupted="Continues when connected",
    unread_name="{count} new",
    yesterday="Yesterday",
    rename="Rename",
    rename_name="New title",
    export_markdown="Export as Markdown…",
    export_json="Export as JSON…",
    delete="Delete",
    model_name="Model",
    model_default="Default model",
    model_default_named="Default ({model})",
    model_gone="{model} (not offered now)",
    more="More",
    settings="Settings",
    deleted="“{title}” was deleted.",
    undo="Undo",
    dismiss="Dismiss",
    exported="Exported to {file}.",
    export_failed="The file could not be written. Choose another folder, or free some space.",
    export_title="Export the conversation",
    markdown_files="Markdown files (*.md)",
    json_files="JSON files (*.json)",
    show_file="Show the folder",
    something_wrong="Something went wrong. The log has the details; your conversations are safe.",
    show_log="Show the log",
    tray_open="Open Answerback",
    tray_quit="Quit",
    tray_unread="Answerback: {count} new",
    tray_stays="Answerback keeps running in the tray, so that answers can still arrive. To quit, use its menu.",
    notify_answered="Answer to “{title}”",
    notify_failed="No answer to “{title}”",
    help="Keyboard shortcuts",
    help_title="Keyboard shortcuts",
    help_hint="This sheet opens with {key}.",
    keys_conversations="Conversations",
    keys_writing="Writing",
    keys_window="Window",
    key_new="New conversation",
    key_search="Search",
    key_next="Next conversation",
    key_previous="Previous conversation",
    key_rename="Rename (in the list)",
    key_delete="Delete (in the list)",
    key_send="Send",
    key_new_line="New line",
    key_stop="Stop the answer",
    key_sidebar="Show or hide the conversations",
    key_settings="Settings",
    key_larger="Larger text",
    key_smaller="Smaller text",
    key_usual_size="Usual text size",
    key_help="This sheet",
    key_close="Close the window",
    key_quit="Quit",
    about="About Answerback",
    about_title="Answerback",
    about_version="Version {version}",
    about_what="Many desktop apps, one language model, and every answer goes home to the app that asked.",
    about_licence="Answerback is free software under the Apache License 2.0.",
    about_qt="It uses Qt {qt} by way of PySide6 {pyside}, under the GNU Lesser General Public License, version 3 "
    "(LGPL-3.0). You may replace them with builds of your own.",
    about_qt_source="Licence and source code of Qt",
    about_others="Also in use: websockets, msgspec, Pygments, keyring, each under its own free licence.",
    about_log="Log file",
    close="Close",
    copy="Copy",
    copied="Copied",
)

WINDOW_KO: Final = WindowTexts(
    sidebar_name="대화 목록과 검색",
    show_sidebar="대화 목록 보기",
    hide_sidebar="대화 목록 숨기기",
    new_conversation="새 대화",
    untitled="새 대화",
    search="검색",
    search_name="모든 대화에서 검색",
    clear_search="검색어 지우기",
    list_name="대화",
    results_name="검색 결과",
    no_conversations="아직 대화가 없어요",
    no_conversations_hint="무엇이든 물어보세요. 질문과 답변이 모두 여기에 남아요.",
    found_nothing="찾은 것이 없어요",
    found_nothing_hint="제목, 질문, 답변 어디에도 “{query}”이(가) 없어요.",
    found_title="제목",
    draft="초안: {text}",
    answering="답변하고 있어요…",
    waiting="전송 대기 중",
    queued="차례를 기다리는 중",
    interrupted="연결되면 이어서 답해요",
    unread_name="새 답변 {count}개",
    yesterday="어제",
    rename="이름 바꾸기",
    rename_name="새 제목",
    export_markdown="Markdown으로 내보내기…",
    export_json="JSON으로 내보내기…",
    delete="삭제",
    model_name="모델",
    model_default="기본 모델",
    model_default_named="기본 모델 ({model})",
    model_gone="{model} (지금은 쓸 수 없음)",
    more="더 보기",
    settings="설정",
    deleted="“{title}” 대화를 삭제했어요.",
    undo="되돌리기",
    dismiss="닫기",
    exported="{file}(으)로 내보냈어요.",
    export_failed="파일을 저장하지 못했어요. 다른 폴더를 고르거나 저장 공간을 확보해 주세요.",
    export_title="대화 내보내기",
    markdown_files="Markdown 파일 (*.md)",
    json_files="JSON 파일 (*.json)",
    show_file="폴더 열기",
    something_wrong="문제가 생겼어요. 자세한 내용은 로그에 남겼고, 대화는 안전해요.",
    show_log="로그 보기",
    tray_open="Answerback 열기",
    tray_quit="종료",
    tray_unread="Answerback: 새 답변 {count}개",
    tray_stays="답변을 계속 받을 수 있도록 Answerback이 트레이에 남아 있어요. 종료하려면 트레이 메뉴를 쓰세요.",
    notify_answered="“{title}” 답변이 도착했어요",
    notify_failed="“{title}” 답변을 받지 못했어요",
    help="키보드 단축키",
    help_title="키보드 단축키",
    help_hint="{key} 키로 이 창을 열 수 있어요.",
    keys_conversations="대화",
    keys_writing="입력",
    keys_window="창",
    key_new="새 대화",
    key_search="검색",
    key_next="다음 대화",
    key_previous="이전 대화",
    key_rename="이름 바꾸기 (목록에서)",
    key_delete="삭제 (목록에서)",
    key_send="보내기",
    key_new_line="줄 바꾸기",
    key_stop="답변 중지",
    key_sidebar="대화 목록 보기/숨기기",
    key_settings="설정",
    key_larger="글자 크게",
    key_smaller="글자 작게",
    key_usual_size="기본 글자 크기",
    key_help="이 창",
    key_close="창 닫기",
    key_quit="종료",
    about="Answerback 정보",
    about_title="Answerback",
    about_version="버전 {version}",
    about_what="여러 데스크톱 앱이 하나의 언어 모델을 함께 쓰고, 모든 답변은 질문한 앱으로 정확히 돌아와요.",
    about_licence="Answerback은 Apache License 2.0을 따르는 자유 소프트웨어예요.",
    about_qt="PySide6 {pyside}를 통해 Qt {qt}을(를) 쓰며, 이들은 GNU LGPL 3.0(LGPL-3.0)을 따라요. "
    "직접 빌드한 것으로 바꿔 쓸 수 있어요.",
    about_qt_source="Qt 라이선스와 소스 코드",
    about_others="이 밖에 websockets, msgspec, Pygments, keyring을 각각의 자유 라이선스에 따라 써요.",
    about_log="로그 파일",
    close="닫기",
    copy="복사",
    copied="복사했어요",
)
