"""All words of the app: their fields here, the words of each language in a file beside this one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import msgspec

from answerback.texts import words_of
from answerback_desktop.attachments import Refusal
from answerback_desktop.engine.events import ConnectionReason, NoticeCode
from answerback_desktop.records import FailureCode
from answerback_desktop.settings import AuthMode, Field, Language, Theme
from answerback_desktop.signin.provider import SignInFailure


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
    pin: str
    unpin: str
    archive: str
    unarchive: str
    conversation_settings: str
    pinned: str
    today: str
    past_week: str
    past_month: str
    archived: str
    leave_archive: str
    no_archive: str
    no_archive_hint: str
    list_menu: str
    export_all_markdown: str
    export_all_json: str
    import_file: str
    import_title: str
    import_files: str
    show_archive: str
    kept: str
    kept_store: str
    kept_copy: str
    # The header
    model_name: str
    model_default: str
    model_default_named: str
    model_gone: str
    more: str
    settings: str
    # What one conversation has of its own
    conversation_title: str
    tags: str
    tags_hint: str
    own_system: str
    own_system_hint: str
    save: str
    # Passing messages
    deleted: str
    undo: str
    dismiss: str
    exported: str
    export_failed: str
    export_title: str
    saved: str
    save_title: str
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
    shortcut_groups: Mapping[str, str]
    shortcuts: Mapping[str, str]
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
    detail: str
    user: str
    round_trip: str
    round_trip_ms: str
    models: str
    rate: str
    rate_unlimited: str
    rate_a_minute: str
    budget: str
    budget_left: str
    budget_tokens: str
    budget_money: str
    outbox: str
    outbox_hint: str
    nobody_answers: str
    # Another server at the address
    other_store: str
    show_kept: str
    go_on: str
    kept: str
    leave_kept: str
    lost: str
    keep_lost: str
    remove_lost: str
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
    start_ollama: str
    start_ollama_text: str
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
    not_connected_to: str
    welcome_signin_title: str
    welcome_refused_title: str
    welcome_signin_text: str
    browser_title: str
    browser_text: str
    browser_copy_link: str
    cancel: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencesTexts:
    """`…_hint` stands below a field. `problems` stand beside a field that cannot be used as it is."""

    title: str
    save: str
    cancel: str
    page_server: str
    page_answers: str
    page_app: str
    locked: str
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
    ca_file: str
    ca_file_placeholder: str
    ca_file_hint: str
    ca_file_choose: str
    ca_file_filter: str
    all_files: str
    proxy: str
    proxy_placeholder: str
    proxy_hint: str
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
    local_model: str
    local_model_embedded: str
    local_model_hint: str
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
    paste_too_long: str
    # Files
    attach: str
    attach_title: str
    attach_image: str
    attach_text: str
    attach_add: str
    attach_close: str
    attach_beside: str
    let_file_go: str
    files_name: str
    save_hint: str
    refusals: Mapping[Refusal, str]
    # The empty and the loading state
    empty_title: str
    empty_text: str
    empty_foreign: str
    examples: tuple[str, ...]
    loading: str
    # A question in a language that the model does not know
    language_unknown: str
    language_other_model: str
    language_ollama: str
    language_get_ollama: str
    language_ask_operator: str
    language_use: str
    language_names: Mapping[str, str]
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
    sending_files: str
    queued: str
    queued_next: str
    waiting: str
    streaming: str
    paused: str
    elsewhere: str
    cancelled: str
    cut: str
    cut_hint: str
    no_answer: str
    files_refused: str
    empty_answer: str
    empty_cut: str
    budget_opens: str
    tokens_one: str
    tokens: str
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
    retry_in_minutes: str
    retry_all: str
    failed_alike: str
    unsent_edit: str
    version: str
    version_name: str
    earlier: str
    later: str
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
    alerts: Mapping[str, str]
    thoughts: str
    thinking: str
    details: str
    # Find in the conversation
    find: str
    find_count: str
    find_nothing: str
    find_next: str
    find_previous: str
    find_close: str
    link_title: str
    link_text: str
    link_open: str
    link_copy: str
    link_hidden: str
    link_other_host: str
    link_user: str
    link_letters: str
    # Offline
    offline_kept: str
    offline_retry: str
    # Why it failed
    failures: Mapping[FailureCode, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The words of one language. `locale`: its name for dates and numbers (BCP 47)."""

    language: Language
    locale: str
    window: WindowTexts
    status: StatusTexts
    preferences: PreferencesTexts
    chat: ChatTexts


@cache
def texts_of(language: Language, *, system_locale: str) -> Texts:
    """The words of a language; `system` means that of `system_locale`, English if there is no such translation."""
    is_korean = system_locale.lower().startswith("ko") if language is Language.SYSTEM else language is Language.KOREAN
    chosen = Language.KOREAN if is_korean else Language.ENGLISH
    # A system of another language keeps its own way to write dates only if it writes them in English.
    is_english = system_locale.lower().startswith("en")
    locale = "ko-KR" if is_korean else system_locale if is_english else "en-GB"
    words = words_of(chosen, package=__name__)
    words["chat"]["failures"] = words_of(chosen)["failures"]
    return msgspec.convert({"language": chosen, "locale": locale, **words}, Texts)
