"""Files that go with questions in a simulated run: what users have, wrong pieces of them, and what must hold."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from answerback.client import File
from answerback.core.request import RequestKey
from answerback.core.uploads import FileKey, Upload, examine
from answerback.protocol.frames import PutPiece, UploadState
from answerback.protocol.limits import PIECE_BYTES
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.history import Promise, Violation, broken
from answerback_proof.simulation.injector import FaultInjector
from answerback_proof.simulation.server import GeneratedAnswer

LINES: Final = (11_000, 5_000, 100)
"""Of the files that each user has: three pieces, two, and one. The first file is the same for all users."""

MAX_CHANGED: Final = 2
"""So often a file is spoilt while it is brought: a client takes five times for a server that lies."""


class SimulatedUploads:
    """The files of all users. It watches pieces on their way in, and what the store keeps of them."""

    def __init__(self, injector: FaultInjector, violate: Callable[[Violation], None]) -> None:
        self._injector = injector
        self._violate = violate
        self._folder = TemporaryDirectory() if injector.faults.files else None
        self._files: dict[FileKey, File] = {}
        self._asked: dict[RequestKey, tuple[File, ...]] = {}
        self._brought: set[tuple[FileKey, str, int, bytes]] = set()
        self._changed: Counter[FileKey] = Counter()
        self._numbers = 0

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def to_read(self, user: str) -> File | None:
        """A file of any user, perhaps, that this user reads back."""
        rng = self._injector.stream(f"files that {user} reads")
        if not self._files or rng.random() >= self._injector.faults.files:
            return None
        return rng.choice(list(self._files.values()))

    def choose(self, user: str, request_id: str) -> tuple[File, ...]:
        """The files that a user sends with a question. Both apps of a user have the same ones."""
        rng = self._injector.stream(f"files of {user}")
        if rng.random() >= self._injector.faults.files:
            return ()
        files = tuple(self._file(user, number) for number in rng.sample(range(len(LINES)), rng.randint(1, 2)))
        self._asked[RequestKey(user, request_id)] = files
        return files

    def _file(self, user: str, number: int) -> File:
        """It is on a real disk, where a client that starts again reads it."""
        assert self._folder is not None
        owner = user if number else "everybody"
        text = "".join(f"{owner} {number} {line}\n" for line in range(LINES[number]))
        path = Path(self._folder.name) / f"{owner}-{number}.txt"
        if not path.exists():
            path.write_text(text)
        file = File.read(path)
        self._files[_key(user, file)] = file
        return file

    def wrong_pieces(self, user: str, look: Callable[[FileKey], Upload | None]) -> Sequence[PutPiece]:
        """What a broken or hostile device of a user may send of its files. `look`: into the store."""
        rng = self._injector.stream("wrong pieces")
        keys = [key for key in self._files if key.user_id == user]
        if not keys or not self._injector.occurs(FaultKind.WRONG_PIECE):
            return ()
        key = rng.choice(keys)
        known = look(key)
        name = "" if known is None else known.name
        offset = PIECE_BYTES * rng.randrange(key.pieces)
        other = FileKey(user, key.sha256, key.size + 1)
        pieces = [
            self._piece(other, 0, "", b""),  # a lie about the size
            self._piece(key, offset, "another", b"#" * (key.length_at(offset) or 0)),  # of a try that is over
            self._piece(key, 0, name, b"#" * 100),  # off the grid
        ]
        if self._changed[key] < MAX_CHANGED:  # the file was changed while it was read
            self._changed[key] += 1
            pieces.append(self._piece(key, offset, name, b"#" * (key.length_at(offset) or 0)))
        return pieces

    def _piece(self, key: FileKey, offset: int, upload: str, data: bytes) -> PutPiece:
        self._numbers += 1
        name = f"wrong-{self._numbers}"
        return PutPiece(request_id=name, sha256=key.sha256, size=key.size, offset=offset, upload=upload, data=data)

    # --- what must hold

    def received(self, user: str, frame: PutPiece) -> None:
        if frame.data:
            key = FileKey(user, frame.sha256, frame.size)
            self._brought.add((key, frame.upload, frame.offset, bytes(frame.data)))

    def told(self, user: str, frame: UploadState) -> None:
        """Each answer to a piece: a file is complete only for a user who has brought every byte of it."""
        key = FileKey(user, frame.sha256, frame.size)
        file = self._files.get(key)
        if not frame.complete:
            return
        if file is None or not self._has_brought(key, file):
            self._break(f"{user} was told that a file is complete of which it has not brought everything")

    def _has_brought(self, key: FileKey, file: File) -> bool:
        """Whether this very user has brought every byte of it."""
        own = {at for whose, _, at, data in self._brought if whose == key and data == _at(file, at)}
        return own == set(range(0, key.size, PIECE_BYTES))

    def returned(self, user: str, file: File, returned: File) -> None:
        if returned.data != file.data:
            self._break(f"{user} has read other bytes than the file has")
        elif not self._has_brought(_key(user, file), file):
            self._break(f"{user} has read a file that it has not brought")

    def put(self, key: FileKey, name: str, number: int, data: bytes) -> None:
        if len(data) != key.length_at(number * PIECE_BYTES):
            self._break(f"piece {number} of a file of {key.user_id} is kept with {len(data)} bytes")
        elif (key, name, number * PIECE_BYTES, bytes(data)) not in self._brought:
            self._break(f"piece {number} is kept of an upload that its sender did not mean")

    def completed(self, key: FileKey, data: bytes | None) -> None:
        """Each file that the store notes as whole, with what it has of it."""
        if data is None or examine(key, data) is None:
            self._break(f"a file of {key.user_id} is noted as whole, and is not")

    def model_started(self, run: GeneratedAnswer) -> None:
        """The model is shown the very files of the question."""
        given = [(file.name, file.media_type, file.data) for file in run.prompt.attachments]
        asked = [(file.name, file.media_type, file.data) for file in self._asked.get(run.key, ())]
        if given != asked:
            self._break(f"the model was shown other files than {run.key.request_id} was asked with")

    def _break(self, detail: str) -> None:
        self._violate(broken(Promise.OWN_ANSWER, detail))


def _key(user: str, file: File) -> FileKey:
    named = file.attachment
    return FileKey(user, named.sha256, named.size)


def _at(file: File, offset: int) -> bytes:
    return file.data[offset : offset + PIECE_BYTES]
