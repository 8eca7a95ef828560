"""A session over a network that loses, repeats and reorders: exact texts, one ending each, the order of calls."""

from hypothesis import given, settings
from hypothesis import strategies as st

from answerback.client.effects import Emit, Fail, Reconnect, Send
from answerback.client.events import Done, Text
from answerback.client.exchange import Timeouts
from answerback.protocol.frames import Hello, SendMessage
from session_script import Script, accepted, delta, end


class Server:
    """What a server owes, and nothing more: it answers `hello`, attaches repeats, and its frames may be lost."""

    def __init__(self, texts):
        self.texts = texts
        self.known = set()
        self.runs = []

    def handle(self, frame):
        match frame:
            case SendMessage(request_id=rid):
                if rid not in self.known:
                    self.known.add(rid)
                    self.runs.append(rid)
                return [accepted(rid), *self.rest(rid, 0, 0)]
            case Hello(hello_id=hello_id, resume=resume):
                frames = [
                    frame for point in resume for frame in self.rest(point.request_id, point.attempt, point.offset)
                ]
                return [*frames, hello_id]
        return []

    def rest(self, rid, attempt, offset):
        assert rid in self.known, "a resume never names an unaccepted question"
        text = self.texts[rid]
        offset = offset if attempt == 1 else 0
        middle = (offset + len(text)) // 2
        return [
            delta(rid, offset, text[offset:middle]),
            delta(rid, middle, text[middle:]),
            end(rid, len(text)),
        ]


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(1, 4), st.floats(0, 0.6))
def test_any_schedule_of_losses_ends_with_the_exact_texts_one_ending_each_and_the_order_of_calls(rng, count, loss):
    texts = {f"r{n}": f"answer {n} " * rng.randint(0, 4) for n in range(count)}
    server = Server(texts)
    script = Script()
    shown = dict.fromkeys(texts, "")
    endings = {rid: [] for rid in texts}

    def carry_out(effects):
        """Frames go through a network that drops, repeats and reorders, and that breaks at times."""
        for effect in effects:
            match effect:
                case Emit(rid, Text() as text):
                    shown[rid] += text.delta
                case Emit(rid, Done(answer)):
                    endings[rid].append(answer.text)
                case Fail():
                    raise AssertionError(effect)
                case Reconnect():
                    script.lose()
                    carry_out(script.connect())
                case Send(frame):
                    if rng.random() < loss:
                        continue
                    answers = server.handle(frame)
                    if rng.random() < 0.2:
                        rng.shuffle(answers)
                    for answer in answers:
                        for _ in range(rng.choice((1, 1, 2))):
                            if rng.random() < loss:
                                continue
                            if isinstance(answer, str):
                                carry_out(script.welcome(Hello(hello_id=answer)))
                            else:
                                carry_out(script.hear(answer))

    for rid in texts:
        carry_out(script.ask(rid, Timeouts(total_s=1e9, silence_s=1e9)))
    carry_out(script.connect())
    for _ in range(5000):
        if script.session.pending == 0:
            break
        if rng.random() < 0.05:
            script.lose()
            carry_out(script.connect())
        script.now = max(script.now, script.session.due_at())
        carry_out(script.session.tick(now=script.now))
    assert endings == {rid: [text] for rid, text in texts.items()}
    assert shown == texts
    assert server.runs == list(texts)
