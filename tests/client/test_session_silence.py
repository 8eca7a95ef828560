"""When a session asks after its questions, and when it wants another connection."""

import itertools

from answerback.client.effects import Reconnect, Send
from answerback.client.events import Done, Text
from answerback.client.exchange import Timeouts
from answerback.protocol.frames import Pong
from session_script import PATIENT, STREAM, accepted, connected, delta, end, events, failures, hellos, sent


def test_a_silent_accepted_question_is_asked_for_with_growing_pauses():
    script = connected(probe_max_s=25)
    script.ask("a", Timeouts(total_s=1000, silence_s=None))
    script.hear(accepted("a"))
    instants = []
    while script.now < 90:
        for hello in hellos(script.wait(script.now + 1)):
            instants.append(script.now)
            script.welcome(hello)
    assert instants == [10, 30, 55, 80]


def test_a_silent_question_is_asked_for_once_more_before_it_is_given_up():
    """Its sign of life may have got lost, and is not repeated."""
    script = connected(progress_ms=8000)
    script.ask("a", PATIENT)
    script.hear(accepted("a"))
    instants = []
    while not failures(effects := script.wait(script.now + 1)):
        for hello in hellos(effects):
            instants.append(script.now)
            script.welcome(hello, 8000)
    assert (instants, script.now) == ([12, 26], 30)


def test_a_silent_unaccepted_question_is_sent_again_once_the_connection_has_answered():
    script = connected()
    script.ask("a")
    effects = script.wait(10)
    assert sent(effects) == ["hello"]
    (hello,) = hellos(effects)
    assert sent(script.welcome(hello)) == ["ask a"]


def test_no_answer_at_all_means_another_connection():
    script = connected()
    script.ask("a")
    script.hear(accepted("a"))
    effects = script.wait(18)
    assert sent(effects) == ["hello a@0:0", "hello"]
    assert [type(e) for e in effects if not isinstance(e, Send)] == [Reconnect]


def test_a_slow_line_gets_more_time_on_the_next_connection():
    script = connected()
    script.ask("a", STREAM)
    assert any(isinstance(e, Reconnect) for e in script.wait(18))
    script.lose()
    script.connect()
    assert not any(isinstance(e, Reconnect) for e in script.wait(33))
    assert any(isinstance(e, Reconnect) for e in script.wait(34))


def test_other_frames_keep_a_connection_alive_until_hellos_are_missed_again_and_again():
    script = connected()
    script.ask("a", STREAM)
    effects = []
    while script.now < 60 and not any(isinstance(e, Reconnect) for e in effects):
        effects += script.wait(script.now + 1)
        effects += script.hear(Pong())
    assert len(hellos(effects)) == 3
    (reason,) = [e.reason for e in effects if isinstance(e, Reconnect)]
    assert reason == "the server does not answer hello"


def test_a_gap_is_resumed_at_once_and_only_once():
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "ab"))
    effects = script.hear(delta("a", 5, "f"), delta("a", 6, "g"), delta("a", 7, "h"))
    assert sent(effects) == ["hello a@1:2"]
    script.hear(delta("a", 2, "cdefgh"))
    assert sent(script.welcome(*hellos(effects))) == []
    *_, done = events(script.hear(end("a", 8)))
    assert done.answer.text == "abcdefgh"


def test_what_the_ending_says_is_missing_is_asked_for_though_the_text_goes_on():
    """Pieces overtook each other: the last ones came too early, and the one before them after the ending."""
    script = connected(silence_s=1000, dead_s=1000)
    script.ask("a", Timeouts(total_s=700))
    effects = script.hear(delta("a", 0, "ab"), delta("a", 4, "ef"), end("a", 6))
    assert sent(effects) == ["hello a@1:2"]
    script.hear(delta("a", 4, "ef"), end("a", 6), delta("a", 2, "cd"))
    assert sent(script.welcome(*hellos(effects))) == ["hello a@1:4"]


def test_without_a_hello_on_the_way_it_is_asked_for_after_a_pause():
    """The rest may come right behind it."""
    script = connected(silence_s=1000, dead_s=1000)
    script.ask("a", Timeouts(total_s=700))
    effects = script.hear(delta("a", 0, "ab"), end("a", 8))
    script.welcome(*hellos(effects))
    assert sent(script.hear(delta("a", 2, "cd"))) == []
    assert sent(script.wait(0.125)) == []
    assert sent(script.wait(1)) == ["hello a@1:4"]


def test_a_gap_that_closes_in_the_pause_is_not_asked_for():
    script = connected(silence_s=1000, dead_s=1000)
    script.ask("a", Timeouts(total_s=700))
    effects = script.hear(delta("a", 0, "ab"), delta("a", 4, "ef"))
    script.welcome(*hellos(effects))
    assert sent(script.hear(delta("a", 4, "ef"), delta("a", 2, "cdef"))) == []
    assert sent(script.wait(1)) == []


def test_a_gap_that_stays_is_asked_for_with_growing_pauses():
    script = connected(silence_s=1000, dead_s=1000)
    script.ask("a", STREAM)
    instants = []
    while script.now < 20:
        effects = script.hear(delta("a", 5, "f")) + script.wait(script.now + 0.125)
        for hello in hellos(effects):
            instants.append(script.now)
            effects = script.welcome(hello)
            assert sent(effects) == []
    assert instants[0] == 0.125
    assert len(instants) < 10
    pauses = [b - a for a, b in itertools.pairwise(instants)]
    assert pauses == sorted(pauses)


def test_an_ending_is_held_until_the_text_is_whole():
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "ab"))
    effects = script.hear(end("a", 4))
    assert events(effects) == []
    assert sent(effects) == ["hello a@1:2"]
    assert [type(e) for e in events(script.hear(delta("a", 2, "cd")))] == [Text, Done]


def test_waking_up_probes_at_once():
    script = connected()
    script.ask("a", STREAM)
    script.hear(delta("a", 0, "ab"))
    script.now = 5
    assert sent(script.session.probe(now=5)) == ["hello a@1:2"]
    assert any(isinstance(e, Reconnect) for e in script.wait(13))


def test_a_quiet_connection_shows_a_sign_of_life():
    script = connected()
    effects = script.wait(270)
    assert sent(effects) == ["Ping"]
    script.hear(Pong())
    assert sent(script.wait(539)) == []
    assert sent(script.wait(540)) == ["Ping"]
    assert any(isinstance(e, Reconnect) for e in script.wait(548))
