"""What a session may do with answers that another session of its user has asked for: watch them, and stop them.

Everything is looked for under the connection's own user. What belongs to another user is as if it were not there.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from msgspec.structs import replace

from answerback.core import request as changes
from answerback.core.keys import normal_id
from answerback.core.request import Conflict, Ended, Pending, RequestKey, Unknown, Watcher
from answerback.core.transitions import State
from answerback.core.watching import KEPT_MS, LEFT_MS
from answerback.ports import Connection, History, Place, Queue, Requests, Watching
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import CancelMessage, Error, ResumePoint, Watch
from answerback.protocol.frames import Watching as WatchingFrame
from answerback.service.delivery_sender import DeliverySender
from answerback.service.questions import Questions, user_of

TOO_MANY: Final = (
    "Too many devices watch this, or too much is watched. Close something, or read the history once a minute."
)


NewestTurn = Callable[[str, str], Awaitable[str | None]]
"""The request id of the newest turn that a conversation of a user has. May raise Unavailable."""


def newest_turn(history: History) -> NewestTurn:
    """As the history shows it."""

    async def newest(user_id: str, conversation_id: str) -> str | None:
        turns = await history.turns(user_id, conversation_id, before=None, limit=1)
        return turns[0].request_id if turns else None

    return newest


@dataclass(eq=False, kw_only=True)
class Devices:
    """Takes `watch`, and `cancelMessage` of what others have asked. `most`: sessions that watch one conversation."""

    most: int
    watching: Watching
    requests: Requests
    newest_turn: NewestTurn
    queue: Queue
    questions: Questions
    delivery_sender: DeliverySender
    clock: Callable[[], int]

    async def watch(self, connection: Connection, frame: Watch) -> WatchingFrame | Error:
        """Show the session a conversation, or the changes of the list, from now on; or no longer. Raises: Unavailable.

        The place is taken first, then it is noted in what runs, and then the session is told. What ended before that
        is in the history, where it looks next (rule: watch, then history).
        """
        user_id, now_ms = user_of(connection), self.clock()
        conversation_id = None if frame.conversation_id is None else normal_id(frame.conversation_id)
        watcher = Watcher(
            session_id=connection.session_id,
            connection_id=connection.connection_id,
            generation=connection.generation or 0,
            number=frame.number,
            off=frame.off,
            until_ms=now_ms + (LEFT_MS if frame.off else KEPT_MS),
        )
        place = await self.watching.watch(user_id, conversation_id, watcher, now_ms=now_ms, most=self.most)
        if place is Place.FULL:
            return Error(code=ErrorCode.OVERLOADED, message=TOO_MANY, request_id=frame.request_id)
        turn: str | None = None
        if conversation_id is not None:
            if place is Place.KEPT:
                resume = () if frame.off else frame.resume
                await self._note(connection, conversation_id, replace(watcher, until_ms=0), resume)
            turn = await self.newest_turn(user_id, conversation_id)
        return WatchingFrame(
            request_id=frame.request_id, conversation_id=conversation_id, number=frame.number, turn=turn
        )

    async def _note(
        self, connection: Connection, conversation_id: str, watcher: Watcher, resume: Sequence[ResumePoint]
    ) -> None:
        """Tell the workers of what is unfinished, and serve what the session waits for and has ended."""
        user_id = user_of(connection)
        points = {point.request_id: point for point in resume}
        unfinished = await self.requests.unfinished_in(user_id, conversation_id)
        # What waits finds the session among those who watch, when its turn has come.
        running = (one for one in unfinished if one.state is State.RUNNING and one.session_id != watcher.session_id)
        for request_id in dict.fromkeys((*(record.request_id for record in running), *points)):
            point = points.get(request_id)
            has = watcher if point is None else replace(watcher, attempt=point.attempt, offset=point.offset)
            watch = partial(changes.watch, conversation_id=conversation_id, watcher=has)
            match await self.requests.change(RequestKey(user_id, request_id), watch):
                case Pending(record=record):
                    self.questions.changed(record)
                case Ended(record=record) if point is not None:
                    await self.questions.serve(record, connection, point.attempt, point.offset)
                case Conflict() if point is not None:
                    await self._error(connection, ErrorCode.REQUEST_CONFLICT, request_id)
                case Unknown() if point is not None:
                    await self._error(connection, ErrorCode.UNKNOWN_REQUEST, request_id)

    async def stop(self, connection: Connection, frame: CancelMessage, conversation_id: str) -> None:
        """Cancel a request of a conversation, whichever session asked it. Raises: Unavailable.

        The ending of one that runs comes to the session as to everybody who watches.
        """
        key = RequestKey(user_of(connection), frame.request_id)
        outcome = await self.requests.change(
            key,
            partial(
                changes.stop,
                conversation_id=normal_id(conversation_id),
                session_id=connection.session_id,
                now_ms=self.clock(),
            ),
        )
        match outcome:
            case Pending(record=record):
                self.questions.changed(record)
            case Ended(record=record, is_new=is_new):
                if is_new:
                    await self.delivery_sender.announce(outcome)
                    await self.queue.forget(record.key)
                await self.questions.serve_ending(record, connection)
            case Conflict() | Unknown():
                await self._error(connection, ErrorCode.UNKNOWN_REQUEST, frame.request_id)

    async def _error(self, connection: Connection, code: ErrorCode, request_id: str) -> None:
        await self.delivery_sender.error(connection.connection_id, code, request_id=request_id)
