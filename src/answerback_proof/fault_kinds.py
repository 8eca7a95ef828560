"""Every kind of fault that the simulation and the chaos runs inject, by the name that their reports print."""

from enum import StrEnum


class FaultKind(StrEnum):
    """What goes wrong. A name of one part of the table means the same wherever it is used."""

    # connections: a proxy or a simulated network cuts, stalls and delays them
    RESET = "connections reset"
    CLOSED = "connections closed in mid-frame"
    STALLED = "connections stalled"
    GATEWAY_GONE = "connections half-open, gateway gone"
    APP_GONE = "connections half-open, app gone"
    DELETED = "connection deleted by the API"
    CUT = "cut connection"
    HALF_OPEN = "half-open connection"
    ROLL_OVER = "roll-over"
    FLAPPING = "flapping connection"
    LATE_DISCONNECT = "late $disconnect"
    SLOW_READER = "slow reader"
    PARKED = "parked answer"
    LOST_POST = "lost post"
    DUPLICATED_POST = "duplicated post"
    DUPLICATED_MESSAGE = "duplicated message"
    LATE_POST = "late post"
    FALSE_GONE = "false gone"
    STALLED_POST = "stalled post"
    FROZEN_APP = "frozen app"

    # apps and their users
    APP_RESTARTED = "app killed and started again"
    APP_CRASH = "app crash"
    TAKE_OVER = "take-over of a session"
    CANCELLATION = "cancellation"
    CANCEL_AND_RESUME = "cancel and resume at once"
    SNOOPING = "snooping"
    HELLO_FLOOD = "hello flood"
    WATCH = "watch begun or left"
    WATCHER_CANCEL = "cancellation by a watcher"
    UNKNOWN_CANCEL = "watcher's cancellation of what nobody asked"
    WRONG_PIECE = "wrong pieces of a file"
    CUT_UPLOAD = "connection cut at a piece of a file"
    TOKEN_RENEWAL = "renewal of a token"  # noqa: S105 - a name

    # processes of the server
    KILL = "gateway killed"
    KILL_STARTING = "gateway killed while it starts"
    KILL_FROZEN = "gateway killed while frozen"
    KILL_FULL = "gateway killed while the disk is full"
    TERMINATE = "gateway stopped gracefully"
    FREEZE = "gateway frozen"
    WORKER_KILLED = "worker killed in mid-answer"
    WORKERS_KILLED = "all workers killed at once"
    FRONT_KILLED = "front killed"
    FRONTS_KILLED = "all fronts killed at once"
    CONNECTIONS_KILLED = "connection manager killed"
    JANITOR_KILLED = "janitor killed"
    PROCESS_CRASH = "process crash"
    WORKER_CRASH = "worker crash"
    FRONT_CRASH = "front crash"
    CLOCK_SKEW = "clock skew"

    # several gateways on one database
    DATABASE_CUT = "gateway cut off from its database"
    LOST_NOTICE = "notice lost"
    LATE_NOTICE = "notice late"

    # stores
    DISK_FULL = "disk full"
    POSTGRES = "PostgreSQL crashed"
    AURORA_PAUSED = "Aurora paused"
    OUTAGE_BEFORE = "outage before the write"
    OUTAGE_AFTER = "outage after the write"
    STALLED_CALL = "stalled store call"
    STALE_INDEX = "index behind its table"

    # the queue and the janitor
    DOUBLED = "message doubled"
    BESIDE = "message of a running request handed to another worker"
    TAKEN = "message handed out and not worked on"
    REDELIVERY = "redelivery of a running request"
    JANITOR_CALLED = "janitor called"

    # the model
    THROTTLED = "Bedrock throttled"
    OVERLOADED = "Bedrock unavailable"
    BROKEN_OFF = "Bedrock broken in mid-stream"
    CONNECTION_CUT = "Bedrock's connection cut in mid-stream"
    STALLED_STREAM = "Bedrock stalled in mid-stream"
    MODEL_FAILS = "model breaks off"
    MODEL_MISBEHAVES = "model misbehaves"
    MODEL_THINKS = "model thinks for longer than a client waits"
