"""Every duration of the client, in seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long the client waits for what. The defaults suit both the embedded gateway and API Gateway."""

    ask_timeout_s: float = 30.0
    """An unstreamed question without a sign of life; in all, if the server gives none."""
    stream_silence_s: float = 30.0
    """A streamed one that has started, without a sign of life while connected."""
    queue_wait_s: float = 750.0
    """A question in all, if the server does not send its limits."""
    call_timeout_s: float = 30.0
    """History, pings and the like."""
    silence_s: float = 10.0
    """No frame about a pending request: ask for it with `hello`, backing off up to `probe_max_s`. Where the server
    gives signs of life, only after one should have come."""
    probe_max_s: float = 60.0
    hello_expiry_s: float = 4.0
    """A `hello` without `welcome` for so long is not waited for any more; another may go out."""
    dead_s: float = 8.0
    """No frame at all after a `hello` or `ping`: the connection is dead."""
    resend_s: float = 1.0
    """Pause before a frame is sent again, if the server named none."""
    backoff_min_s: float = 0.25
    """First ceiling of the full-jitter pause between connects; doubles up to `backoff_max_s`."""
    backoff_max_s: float = 30.0
    open_timeout_s: float = 10.0
    """TCP, TLS and the WebSocket handshake together."""
    ping_idle_s: float = 270.0
    """Sign of life on a quiet connection (API Gateway closes one after 10 minutes)."""
    renew_watch_s: float = 240.0
    """What is watched is asked for again (the server forgets it after 10 minutes)."""
    full_watch_s: float = 60.0
    """Where the server has no room for one more that watches: between two tries, each with a look at the history."""
    rollover_min_s: float = 6_000.0
    """A connection is replaced at a random age between the two (API Gateway closes it after 2 hours)."""
    rollover_max_s: float = 6_900.0
    stay_s: float = 2.0
    """A new connection is not replaced sooner, even if the server leaves at once."""
    renew_before_s: float = 60.0
    """A token is renewed so long before it expires."""
    keepalive_s: float = 20.0
    """Between WebSocket pings, and the wait for their pong."""
    watch_s: float = 5.0
    """How often to read the clocks; a leap of more than `jump_s` means that the machine slept."""
    jump_s: float = 10.0
    close_s: float = 2.0
    """To send what is left, and again to close gracefully."""
