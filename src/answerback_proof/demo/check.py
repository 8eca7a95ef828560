"""The proof at the end of the demo: what the apps saw, what went over the wire, and what the store has, compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from answerback.core.request import RequestKey, State
from answerback.ports import History, Requests
from answerback.stores import open_store
from answerback_proof.demo.apps import App
from answerback_proof.load.ledger import Entry, Ledger, Verdicts

_TURNS = 1000


async def check_everything(apps: Sequence[App], ledger: Ledger, data_dir: Path) -> Verdicts:
    """Open the store of the stopped gateway and compare. The ledger's own verdicts, on every frame, are included.

    Raises: StoreError: the store cannot be opened. Unavailable: it cannot be read.
    """
    ledger.close()
    on_wire = {entry.request_id: entry for entry in ledger.ended}
    store = await open_store(None, data_dir)
    try:
        await compare(apps, on_wire, store, store, ledger.verdicts)
    finally:
        await store.close()
    return ledger.verdicts


async def compare(
    apps: Sequence[App], on_wire: Mapping[str, Entry], requests: Requests, history: History, verdicts: Verdicts
) -> None:
    """Count every difference between the store, the wire, the history and the apps; the store is what is right."""
    stored: dict[str, str] = {}
    for app in apps:
        for asked in app.asked:
            key = RequestKey(app.user, asked.request_id)
            record = await requests.read(key)
            name = f"{app.name}, question {asked.number}"
            if record is not None and record.state is State.FAILED and asked.error:
                continue  # the model failed, and the app was told: an ending that came home
            if record is None or record.state is not State.COMPLETED or record.session_id != app.session:
                verdicts.add_lost(
                    f"{name}: the store has no answer ({'no record' if record is None else record.state})"
                )
                continue
            stored[asked.request_id] = await requests.answer(key)
    for record in await requests.unfinished():
        verdicts.add_lost(f"request {record.request_id} has no ending in the store")
    for app in apps:
        kept = await _history_of(app, history)
        for asked in app.asked:
            want = stored.get(asked.request_id)
            if want is None:
                continue
            entry = on_wire.get(asked.request_id)
            seen = {
                "what the app got": asked.answer.text if asked.answer else "",
                "what it showed while it grew": asked.text,
                "what went over the wire": entry.text or "" if entry else "",
                "what the history has": kept.get(asked.request_id, ""),
            }
            others = {text for request_id, text in stored.items() if request_id != asked.request_id}
            for what, got in seen.items():
                name = f"{app.name}, question {asked.number}: {what}"
                verdicts.compare(name, got=got, want=want, is_of_another=others.__contains__)


async def _history_of(app: App, history: History) -> dict[str, str]:
    """The answers in the app's history; a turn that nobody asked for would be missed by no one, so all are read."""
    conversations = {asked.answer.conversation_id for asked in app.asked if asked.answer}
    kept: dict[str, str] = {}
    for conversation_id in conversations - {None}:
        assert conversation_id is not None
        for turn in await history.turns(app.user, conversation_id, before=None, limit=_TURNS):
            kept[turn.request_id] = turn.answer
    return kept
