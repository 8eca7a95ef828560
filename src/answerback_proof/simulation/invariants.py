"""What must hold at every moment: watched at the ends of the store, the network and the model."""

from collections import Counter
from collections.abc import Callable

from answerback.core.context import Role
from answerback.core.request import Record, RequestKey, State
from answerback.protocol.frames import (
    CancelMessage,
    ClientFrame,
    Error,
    Hello,
    MessageDelta,
    MessageResponse,
    SendMessage,
    ServerFrame,
    Status,
)
from answerback_proof.simulation.model import ModelRun
from answerback_proof.simulation.report import Violation
from answerback_proof.simulation.server import Clocks
from answerback_proof.simulation.store import FaultyStore
from answerback_proof.simulation.workload import Window


class Monitor:
    """Its `record_changed`, `frame_sent`, `frame_received` and `model_started` are called as these things happen."""

    def __init__(
        self, *, clocks: Clocks, store: Callable[[], FaultyStore], violate: Callable[[Violation], None]
    ) -> None:
        self._clocks = clocks
        self._store = store
        self._violate = violate
        self.windows: dict[str, Window] = {}
        """The window at the far end of each connection."""
        self.told: dict[RequestKey, set[tuple[Status, int, int]]] = {}
        """The endings that the server has sent about each request."""
        self.asked_for: Counter[tuple[str, str]] = Counter()
        """How often a client has asked on a connection for the text of a request."""
        self.sent_text: Counter[tuple[str, str, int]] = Counter()
        """Code points of each attempt sent on each connection."""
        self._sent_to: dict[tuple[str, str, int], int] = {}
        self._resumes: dict[tuple[str, str, int], set[int]] = {}

    def _key(self, connection_id: str, request_id: str) -> RequestKey:
        return RequestKey(self.windows[connection_id].app.user_id, request_id)

    # --- the store

    def record_changed(self, before: Record | None, after: Record) -> None:
        """Each change of a record in the store."""
        if before is None:
            return
        name = after.request_id
        if before.state.is_terminal:
            self._violate(Violation("G2", f"{name} had ended and was changed"))
        if after.attempt < before.attempt:
            self._violate(Violation("G7", f"{name} fell from attempt {before.attempt} to {after.attempt}"))
        if before.target and after.target and after.target.generation < before.target.generation:
            self._violate(Violation("G1", f"the address of {name} went back to an older connection"))
        if before.state is State.RUNNING and after.attempt > before.attempt:
            self._displaced(before, after)
        if after.state is State.RUNNING and after.attempt > before.attempt and before.cancel_requested:
            self._violate(Violation("G6", f"{name} was cancelled and is run again"))

    def _displaced(self, before: Record, after: Record) -> None:
        if self._clocks.worker() < before.lease_until_ms:
            self._violate(Violation("G7", f"the live lease of {after.request_id} was displaced"))

    # --- the network

    def frame_sent(self, connection_id: str, frame: ServerFrame) -> None:
        """Each frame that the server has sent to a connection."""
        request_id = getattr(frame, "request_id", None)
        if request_id is None or connection_id not in self.windows:
            return
        window = self.windows[connection_id]
        key = self._key(connection_id, request_id)
        if isinstance(frame, Error):
            return
        record = self._store().records.get(key)
        if record is None:
            if not request_id.startswith("renewal-"):
                self._violate(Violation("G5", f"{type(frame).__name__} of {request_id}, and the store has no record"))
            return
        if record.session_id != window.app.session_id:
            what = f"{connection_id} got {type(frame).__name__} of {request_id} of {record.session_id}"
            self._violate(Violation("G1", what))
        match frame:
            case MessageDelta():
                self._text_sent(connection_id, frame)
            case MessageResponse():
                self._ending_sent(key, record, frame)
            case _:
                pass

    def _text_sent(self, connection_id: str, frame: MessageDelta) -> None:
        """On one connection, text goes on where it was, or where the client said that it is."""
        place = (connection_id, frame.request_id, frame.attempt)
        self.sent_text[place] += len(frame.delta)
        sent_to = self._sent_to.get(place, 0)
        if frame.offset > sent_to and frame.offset not in self._resumes.get(place, ()):
            detail = f"{connection_id} was sent {frame.request_id} from {frame.offset} on, and has it up to {sent_to}"
            self._violate(Violation("G3", detail))
        self._sent_to[place] = max(sent_to, frame.offset + len(frame.delta))

    def _ending_sent(self, key: RequestKey, record: Record, frame: MessageResponse) -> None:
        if record.ending is None:
            self._violate(Violation("G5", f"the ending of {key.request_id} was sent before it was stored"))
            return
        told = self.told.setdefault(key, set())
        told.add((frame.status, frame.attempt, frame.length))
        if len(told) > 1:
            self._violate(Violation("G2", f"the server told {len(told)} endings of {key.request_id}: {told}"))

    def frame_received(self, connection_id: str, frame: ClientFrame) -> None:
        """Each frame that a client has sent, once for each time that it arrives."""
        match frame:
            case Hello(resume=points):
                for point in points:
                    self.asked_for[connection_id, point.request_id] += 1
                    place = (connection_id, point.request_id, point.attempt)
                    self._resumes.setdefault(place, set()).add(point.offset)
            case SendMessage() | CancelMessage():
                self.asked_for[connection_id, frame.request_id] += 1
            case _:
                pass

    # --- the model

    def model_started(self, run: ModelRun) -> None:
        """Each attempt that begins to generate."""
        store = self._store()
        record = store.records.get(run.key)
        if record is None:
            self._violate(Violation("G5", f"the model runs {run.key.request_id}, and the store has no record"))
            return
        for other in store.records.values():
            if other.ordering_key == record.ordering_key and other.key != run.key and self._is_held(other):
                self._violate(Violation("G4", f"{run.key.request_id} starts while {other.request_id} of its key runs"))
        self._check_context(run, record)

    def _is_held(self, record: Record) -> bool:
        return record.state is State.RUNNING and self._clocks.worker() < record.lease_until_ms

    def _check_context(self, run: ModelRun, record: Record) -> None:
        """The model is shown the conversation's completed turns, and only those."""
        store = self._store()
        said = [m.text for m in run.prompt.messages[:-1] if m.role is Role.ASSISTANT]
        expected = [] if record.standalone else [store.answers[k] for k in self._completed_before(record)]
        if said != expected[-20:]:
            detail = f"{run.key.request_id} was asked with the answers {said}, the conversation has {expected}"
            self._violate(Violation("history", detail))

    def _completed_before(self, record: Record) -> list[RequestKey]:
        return [
            other.key
            for other in self._store().records.values()
            if other.user_id == record.user_id
            and other.conversation_id == record.conversation_id
            and other.state is State.COMPLETED
        ]
