"""Hostile bytes: what a broken, a careless or a malicious client may put on an open WebSocket."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from answerback_proof.load.websocket import Masker

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0
FIN: Final = 0x80

_JUNK: Final = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e308,
    2**63,
    2**64,
    10**40,
    "",
    " ",
    "\0",
    "a\u202eb",
    [],
    {},
    [[]],
    {"a": []},
)
_ODD_TEXT: Final = (
    "\u0000",
    "\u202e",
    "\ufeff",
    "\u2028",
    "\U0001f469\u200d\U0001f4bb",
    "e\u0301",
    "\uffff",
    "\U0010ffff",
    "]]>",
    "'; --",
)
_CURSORS: Final = (
    "0",
    "1:2",
    "1:2:3",
    "-1",
    "9" * 18 + ":x",
    "9" * 19 + ":x",
    "9" * 200,
    "1:2:3:4",
    ":",
    "\u0661",
    "0:\ud7ff",
)


def _examples() -> list[bytes]:
    """The frames of a client that the protocol's own document shows."""
    document = json.loads(Path(__file__).parents[2].joinpath("asyncapi.json").read_text(encoding="utf-8"))
    received = [name for name, operation in document["operations"].items() if operation["action"] == "receive"]
    examples = [example for name in received for example in document["components"]["messages"][name]["examples"]]
    return [json.dumps(example["payload"]).encode() for example in examples]


class Arsenal:
    """Endless hostile messages; the same for the same seed. `sent` counts WebSocket frames by kind."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._masker = Masker(rng.randbytes(4))
        self._numbers = 0
        self.sent: Counter[str] = Counter()
        self._valid = _examples()
        weights: dict[Callable[[], bytes], float] = {
            self._malformed: 22,
            self._wrong_types: 20,
            self._fragments: 2,
            self._pings: 4,
            self._refused_again: 8,
            self._unknown_action: 6,
            self._bad_cursor: 6,
            self._huge_ids: 5,
            self._app_ping: 5,
            self._random_text: 4,
            self._refused_anew: 3,
            self._cancel_unknown: 2,
            self._repeated_question: 2,
            self._bad_token: 2,
            self._greedy_hello: 0.5,
            self._nested: 0.3,
            self._question: 0.3,
            self._largest: 0.02,
        }
        self._kinds = tuple(weights)
        self._weights = tuple(weights.values())
        self._endings = (
            self._random_bytes,
            self._oversize,
            self._far_oversize,
            self._binary,
            self._bad_utf8,
            self._unmasked,
            self._reserved_bit,
            self._reserved_opcode,
            self._lone_continuation,
            self._long_ping,
            self._bad_close,
            self._half_a_frame,
        )

    def volley(self, frames: int) -> bytes:
        """About so many frames that leave the connection open."""
        before = self.sent.total()
        pieces: list[bytes] = []
        while self.sent.total() - before < frames:
            pieces += [kind() for kind in self._rng.choices(self._kinds, self._weights, k=16)]
        return b"".join(pieces)

    def ending(self) -> bytes:
        """One breach after which the gateway has to close the connection, or wait for more."""
        return self._rng.choice(self._endings)()

    # --- messages that are answered

    def _malformed(self) -> bytes:
        data = bytearray(self._rng.choice(self._valid))
        match self._rng.randrange(3):
            case 0:
                del data[self._rng.randrange(len(data)) :]
            case 1:
                data[self._rng.randrange(len(data))] = self._rng.randrange(32, 127)
            case _:
                data += b"}" * self._rng.randrange(1, 9)
        return self._text("malformed JSON", bytes(data))

    def _wrong_types(self) -> bytes:
        fields: dict[str, Any] = json.loads(self._rng.choice(self._valid))
        for name in self._rng.sample(sorted(fields), k=self._rng.randint(1, len(fields))):
            fields[name] = self._rng.choice(_JUNK)
        return self._json("wrong types", fields)

    def _huge_ids(self) -> bytes:
        name = self._rng.choice("a\u00e9\U0001f600") * self._rng.choice((128, 129, 1_000, 8_000))
        return self._json("huge ids", {"action": "sendMessage", "requestId": name, "message": ""})

    def _random_text(self) -> bytes:
        size = self._rng.randrange(1, 60)
        text = "".join(
            chr(self._rng.choice((self._rng.randrange(32, 0xD800), self._rng.randrange(0xE000, 0x11_0000))))
            for _ in range(size)
        )
        return self._text("random unicode", text.encode())

    def _refused_anew(self) -> bytes:
        return self._json(
            "refused question, new id", {"action": "sendMessage", "requestId": self._new_id(), "message": " "}
        )

    def _refused_again(self) -> bytes:
        name = f"again-{self._rng.randrange(20)}"
        return self._json("refused question, known id", {"action": "sendMessage", "requestId": name, "message": 7})

    def _repeated_question(self) -> bytes:
        name = f"same-{self._rng.randrange(20)}"
        text = self._rng.choice(_ODD_TEXT[1:])
        return self._json("repeated question", {"action": "sendMessage", "requestId": name, "message": text})

    def _question(self) -> bytes:
        text = " ".join(self._rng.choices(_ODD_TEXT[1:], k=5))
        stream = self._rng.random() < 0.5
        return self._json(
            "question", {"action": "sendMessage", "requestId": self._new_id(), "message": text, "stream": stream}
        )

    def _largest(self) -> bytes:
        fields = {"action": "sendMessage", "requestId": f"large-{self._rng.randrange(20)}", "message": "x" * 130_000}
        return self._json("largest question", fields)

    def _unknown_action(self) -> bytes:
        return self._json(
            "unknown action", {"action": self._rng.choice(("$connect", "", "welcome", "__class__", "messageDelta"))}
        )

    def _bad_cursor(self) -> bytes:
        action = self._rng.choice(("getHistory", "listConversations"))
        fields = {"action": action, "requestId": "page", "conversationId": "c", "before": self._rng.choice(_CURSORS)}
        return self._json("odd cursor", fields)

    def _cancel_unknown(self) -> bytes:
        return self._json("cancel of an unknown request", {"action": "cancelMessage", "requestId": self._new_id()})

    def _bad_token(self) -> bytes:
        token = self._rng.choice(("x", "a.b.c", "." * 500, "eyJhbGciOiJub25lIn0.e30."))
        return self._json("renewed token", {"action": "renewToken", "requestId": "t", "token": token})

    def _greedy_hello(self) -> bytes:
        points = [{"requestId": f"{self._rng.randrange(10**9)}", "attempt": 1, "offset": 2**50} for _ in range(100)]
        return self._json("hello for 100 requests", {"action": "hello", "helloId": "h", "resume": points})

    def _app_ping(self) -> bytes:
        return self._json("ping action", {"action": "ping"})

    def _nested(self) -> bytes:
        opening = self._rng.choice(
            (b"[", b'{"a":', b'{"action":"sendMessage","requestId":"n","message":"m","timestamp":[')
        )
        return self._text("deep nesting", opening * self._rng.choice((100, 2_000, 20_000 // len(opening))))

    # --- framing that is allowed

    def _fragments(self) -> bytes:
        """One message in pieces, with pings between."""
        payload = self._rng.choice(self._valid)
        count = self._rng.randrange(2, 12)
        frames = []
        for number in range(count):
            piece = payload[number::count] if self._rng.random() < 0.5 else payload[number * 4 : number * 4 + 4]
            frames.append(
                self._frame(
                    piece.decode("ascii", "ignore").encode(),
                    TEXT if number == 0 else CONTINUATION,
                    fin=number == count - 1,
                )
            )
            if self._rng.random() < 0.2:
                frames.append(self._masker.frame(b"between", PING))
        self.sent["fragments"] += len(frames)
        return b"".join(frames)

    def _pings(self) -> bytes:
        self.sent["WebSocket ping or pong"] += 1
        return self._masker.frame(self._rng.randbytes(self._rng.randrange(126)), self._rng.choice((PING, PING, PONG)))

    # --- breaches

    def _random_bytes(self) -> bytes:
        self.sent["random bytes"] += 1
        return self._rng.randbytes(self._rng.randrange(1, 400))

    def _oversize(self) -> bytes:
        return self._text("oversize", b"x" * (131_073 + self._rng.randrange(1_000)))

    def _far_oversize(self) -> bytes:
        self.sent["far oversize"] += 1
        return self._masker.frame(bytes(2 * 1024 * 1024))[: self._rng.choice((14, 4_000))]

    def _binary(self) -> bytes:
        self.sent["binary"] += 1
        return self._masker.frame(self._rng.choice(self._valid), BINARY)

    def _bad_utf8(self) -> bytes:
        return self._text("bad UTF-8", self._rng.choice((b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xf4\x90\x80\x80")))

    def _unmasked(self) -> bytes:
        self.sent["unmasked"] += 1
        payload = self._rng.choice(self._valid)[:125]
        return bytes((FIN | TEXT, len(payload))) + payload

    def _reserved_bit(self) -> bytes:
        self.sent["reserved bit"] += 1
        frame = bytearray(self._masker.frame(b"{}"))
        frame[0] |= self._rng.choice((0x10, 0x20, 0x40))
        return bytes(frame)

    def _reserved_opcode(self) -> bytes:
        self.sent["reserved opcode"] += 1
        return self._masker.frame(b"{}", self._rng.choice((3, 7, 11, 15)))

    def _lone_continuation(self) -> bytes:
        self.sent["lone continuation"] += 1
        return self._masker.frame(b"{}", CONTINUATION)

    def _long_ping(self) -> bytes:
        self.sent["long ping"] += 1
        return self._masker.frame(bytes(126), PING)

    def _bad_close(self) -> bytes:
        self.sent["bad close"] += 1
        body = self._rng.choice((b"\x03", b"\x03\xed", b"\x03\xee", b"\x00\x00", b"\x03\xe8\xff\xff"))
        return self._masker.frame(body, CLOSE)

    def _half_a_frame(self) -> bytes:
        self.sent["half a frame"] += 1
        return self._masker.frame(self._rng.choice(self._valid))[: self._rng.randrange(1, 12)]

    # --- building

    def _new_id(self) -> str:
        self._numbers += 1
        return f"{self._numbers}-{self._rng.randrange(10**12)}"

    def _json(self, kind: str, fields: dict[str, Any]) -> bytes:
        return self._text(kind, json.dumps(fields, ensure_ascii=self._rng.random() < 0.5).encode("utf-8", "replace"))

    def _text(self, kind: str, payload: bytes) -> bytes:
        self.sent[kind] += 1
        return self._masker.frame(payload)

    def _frame(self, payload: bytes, opcode: int, *, fin: bool) -> bytes:
        frame = bytearray(self._masker.frame(payload, opcode))
        if not fin:
            frame[0] &= ~FIN
        return bytes(frame)
