"""Every SQL statement of the stores, once, for SQLite, PostgreSQL and the RDS Data API.

Rules: `:name` parameters, but `?` in what is run for many rows at once; no data modification inside a WITH; upserts
that may be repeated; a parameter stands where its type is clear from a column, else in a CAST. The texts are constants
so that drivers keep them prepared.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

Value: TypeAlias = str | int | None
Row: TypeAlias = tuple[Any, ...]
Params: TypeAlias = Mapping[str, Value]

_TOKEN: Final = re.compile(
    r"""
      '(?:[^']|'')*'          # a string literal
    | "(?:[^"]|"")*"          # a quoted name
    | ::\w+                   # a cast
    | :(?P<name>[a-z_]\w*)    # a parameter
    | \?                      # a parameter without a name
    | %                       # psycopg's own sign
    """,
    re.VERBOSE,
)


def names(sql: str) -> frozenset[str]:
    """The names of the statement's parameters."""
    return frozenset(match["name"] for match in _TOKEN.finditer(sql) if match["name"])


def to_psycopg(sql: str) -> str:
    """The statement with `%(name)s` for `:name` and `%s` for `?`; literals, quoted names and `::casts` stay."""
    return _TOKEN.sub(_rewrite, sql)


def _rewrite(match: re.Match[str]) -> str:
    name = match.group("name")
    if name:
        return f"%({name})s"
    return "%s" if match.group() == "?" else match.group().replace("%", "%%")


# --- the three kinds of write, and what goes with them ------------------------------------------------------------

INSERT_USER: Final = """
INSERT INTO users (user_id, created_at_ms) VALUES (?, ?) ON CONFLICT (user_id) DO NOTHING"""

ACCEPT: Final = """
INSERT INTO requests (n, user_id, request_id, accepted_at_ms, record_schema, record, ended_at_ms, conversation_id,
  options, system, question, attachments)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""

NOTE: Final = """
UPDATE requests SET record_schema = ?, record = ? WHERE n = ?"""

FINISH: Final = """
UPDATE requests SET ended_at_ms = ?, replaces = ?, status = ?, model = ?, error_code = ?, input_tokens = ?,
  output_tokens = ?, record_schema = ?, record = ?, answer = ?, marks = ? WHERE n = ?"""

# Changes no row of a conversation that is deleted: what ends there is looked at one by one.
TOUCH: Final = """
INSERT INTO conversations (user_id, conversation_id, title, created_at_ms, updated_at_ms) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (user_id, conversation_id) DO UPDATE SET updated_at_ms =
  CASE WHEN conversations.updated_at_ms < excluded.updated_at_ms THEN excluded.updated_at_ms
  ELSE conversations.updated_at_ms END
WHERE conversations.deleted_at_ms IS NULL"""

SUPERSEDE: Final = """
UPDATE requests SET superseded_by = :request_id
WHERE user_id = :user_id AND conversation_id = :conversation_id AND superseded_by IS NULL AND ended_at_ms IS NOT NULL
  AND n < :n AND n >= (
    SELECT MAX(r.n) FROM requests r
    WHERE r.user_id = :user_id AND r.conversation_id = :conversation_id AND r.request_id = :replaces
      AND r.ended_at_ms IS NOT NULL AND r.n < :n
  )"""

CHARGE: Final = """
INSERT INTO budgets (holder, period, until_ms, used, reserved) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (holder, period) DO UPDATE SET used = budgets.used + excluded.used,
  reserved = budgets.reserved + excluded.reserved"""

# --- requests -----------------------------------------------------------------------------------------------

UPDATE_RECORD: Final = """
UPDATE requests SET record = :record, record_schema = :record_schema
WHERE user_id = :user_id AND request_id = :request_id AND forgotten IS NULL"""

SELECT_NUMBER: Final = "SELECT n FROM requests WHERE n = :n AND user_id = :user_id AND request_id = :request_id"

SELECT_QUESTION: Final = """
SELECT options, question, system FROM requests
WHERE user_id = :user_id AND request_id = :request_id AND forgotten IS NULL AND question IS NOT NULL"""

SELECT_RECORD: Final = """
SELECT record, record_schema FROM requests
WHERE user_id = :user_id AND request_id = :request_id AND forgotten IS NULL"""

SELECT_ANSWER: Final = """
SELECT answer, marks FROM requests WHERE user_id = :user_id AND request_id = :request_id AND forgotten IS NULL"""

# What a writer keeps in memory; `{users}` is a condition on user_id, for a part of it or for all of it. Its readers
# sort: to get the order from SQLite would make it go through the whole table.
ALL_USERS: Final = "user_id >= ''"

SELECT_UNFINISHED: Final = """
SELECT n, record, record_schema, options, question, system FROM requests
WHERE ended_at_ms IS NULL AND {users}"""

SELECT_ACCEPTED: Final = """
SELECT n, user_id, accepted_at_ms FROM requests
WHERE n < :before AND question IS NOT NULL AND {users} ORDER BY n DESC LIMIT :limit"""

SELECT_LIMITS: Final = "SELECT user_id, per_minute FROM users WHERE per_minute IS NOT NULL AND {users}"

SELECT_LAST_NUMBER: Final = "SELECT COALESCE(MAX(n), 0) FROM requests"

SELECT_MARK: Final = "SELECT value FROM marks WHERE name = :name"

PUT_MARK: Final = """
INSERT INTO marks (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value"""

# Rows are deleted, perhaps the last one: its number must not be given out again.
KEEP_LAST_NUMBER: Final = """
INSERT INTO marks (name, value) SELECT 'n', CAST(COALESCE(MAX(n), 0) AS text) FROM requests WHERE true
ON CONFLICT (name) DO UPDATE SET value = excluded.value
WHERE CAST(marks.value AS bigint) < CAST(excluded.value AS bigint)"""

NAME_STORE: Final = """
INSERT INTO marks (name, value) VALUES ('store_id', :value) ON CONFLICT (name) DO NOTHING"""

# --- retention ----------------------------------------------------------------------------------------------

SELECT_OLD: Final = """
SELECT n FROM requests
WHERE ended_at_ms < :before_ms AND forgotten IS NULL ORDER BY ended_at_ms, n LIMIT :limit"""

SELECT_OLD_REFUSALS: Final = """
SELECT n FROM requests WHERE question IS NULL AND ended_at_ms < :before_ms ORDER BY ended_at_ms, n LIMIT :limit"""

DELETE_OUTSIDE: Final = "DELETE FROM requests WHERE n = ? AND conversation_id IS NULL"

FORGET: Final = """
UPDATE requests SET forgotten = 1, counted = 1, record_schema = 0, record = '', options = NULL, system = NULL
WHERE n = ?"""

FORGET_COUNTERS: Final = "DELETE FROM budgets WHERE until_ms < :before_ms AND reserved = 0"

# --- history ------------------------------------------------------------------------------------------------

TURN: Final = """n, request_id, status, accepted_at_ms, ended_at_ms, model, replaces, error_code, input_tokens,
  output_tokens, superseded_by, attachments"""

# Turns of a conversation that is not deleted: those that are shown, and all of them.
ALL_TURNS: Final = """user_id = :user_id AND conversation_id = :conversation_id
  AND ended_at_ms IS NOT NULL AND n < :before AND NOT EXISTS (
    SELECT 1 FROM conversations c
    WHERE c.user_id = :user_id AND c.conversation_id = :conversation_id AND c.deleted_at_ms IS NOT NULL
  )"""
SHOWN: Final = f"{ALL_TURNS} AND superseded_by IS NULL"

SELECT_ALL_TURNS: Final = f"""
SELECT {TURN}, question, answer, marks FROM requests WHERE {ALL_TURNS} ORDER BY n DESC LIMIT :limit"""  # noqa: S608 - the texts above

_TURNS: Final = f"SELECT {TURN}, question, answer, marks FROM requests WHERE {SHOWN}"  # noqa: S608 - the texts above

SELECT_TURNS: Final = _TURNS + " ORDER BY n DESC LIMIT :limit"

SELECT_RECENT_TURNS: Final = _TURNS + " AND status = 'completed' ORDER BY n DESC LIMIT :limit"

SELECT_POSITION: Final = """
SELECT n, record, record_schema FROM requests
WHERE user_id = :user_id AND request_id = :request_id AND forgotten IS NULL AND question IS NOT NULL"""

SELECT_OLD_POSITION: Final = """
SELECT MAX(n) FROM requests
WHERE user_id = :user_id AND conversation_id = :conversation_id AND request_id = :request_id"""

_CONVERSATIONS: Final = """
SELECT c.conversation_id, c.title, c.created_at_ms, c.updated_at_ms, c.deleted_at_ms, (
    SELECT COUNT(*) FROM requests t
    WHERE t.user_id = c.user_id AND t.conversation_id = c.conversation_id AND t.ended_at_ms IS NOT NULL
      AND t.superseded_by IS NULL
  ) AS turns
FROM ({source}) AS c
ORDER BY c.updated_at_ms DESC, c.conversation_id DESC"""

SELECT_CONVERSATION: Final = _CONVERSATIONS.format(
    source="SELECT * FROM conversations WHERE user_id = :user_id AND conversation_id = :conversation_id"
)

SELECT_CONVERSATIONS: Final = _CONVERSATIONS.format(
    source="""
  SELECT * FROM conversations
  WHERE user_id = :user_id AND deleted_at_ms IS NULL
    AND (updated_at_ms, conversation_id) < (CAST(:before_ms AS bigint), CAST(:before_id AS text))
  ORDER BY updated_at_ms DESC, conversation_id DESC LIMIT :limit"""
)

RENAME_CONVERSATION: Final = """
UPDATE conversations SET title = :title, updated_at_ms = :now_ms
WHERE user_id = :user_id AND conversation_id = :conversation_id"""

# Deleting what is deleted changes nothing, nor does restoring what is not.
DELETE_CONVERSATION: Final = """
UPDATE conversations SET deleted_at_ms = :deleted_at_ms
WHERE user_id = :user_id AND conversation_id = :conversation_id
  AND (deleted_at_ms IS NULL) <> (CAST(:deleted_at_ms AS bigint) IS NULL)"""

SELECT_EXPIRED: Final = """
SELECT c.user_id, c.conversation_id, c.updated_at_ms FROM conversations c LEFT JOIN users u ON u.user_id = c.user_id
WHERE c.deleted_at_ms IS NULL AND c.updated_at_ms <
  :now_ms - CAST(86400000 AS bigint) * COALESCE(c.keep_days, u.keep_days, :keep_days)
LIMIT :limit"""

# As if it had been deleted when it was last used.
EXPIRE: Final = """
UPDATE conversations SET deleted_at_ms = updated_at_ms
WHERE user_id = :user_id AND conversation_id = :conversation_id AND updated_at_ms = :updated_at_ms
  AND deleted_at_ms IS NULL"""

SELECT_DELETED_AT: Final = """
SELECT deleted_at_ms FROM conversations WHERE user_id = :user_id AND conversation_id = :conversation_id"""

SELECT_OLD_DELETED: Final = """
SELECT user_id, conversation_id, deleted_at_ms FROM conversations
WHERE deleted_at_ms < :before_ms ORDER BY deleted_at_ms, user_id, conversation_id LIMIT :limit"""

# Keeps what was asked since: it begins the conversation again. Texts whose request can still be asked for stay with it.
ERASE_CONVERSATION: Final = (
    """
DELETE FROM requests WHERE user_id = :user_id AND conversation_id = :conversation_id AND forgotten IS NOT NULL
  AND accepted_at_ms <= :deleted_at_ms""",
    """
UPDATE requests SET conversation_id = NULL WHERE user_id = :user_id AND conversation_id = :conversation_id
  AND ended_at_ms IS NOT NULL AND accepted_at_ms <= :deleted_at_ms""",
    "DELETE FROM conversations WHERE user_id = :user_id AND conversation_id = :conversation_id",
)

UNLINK: Final = "UPDATE requests SET conversation_id = NULL WHERE n = :n"

# --- users, whose erasing is in user_data.py ----------------------------------------------------------------

SET_LIMIT: Final = """
INSERT INTO users (user_id, per_minute, created_at_ms) VALUES (:user_id, :per_minute, :created_at_ms)
ON CONFLICT (user_id) DO UPDATE SET per_minute = excluded.per_minute"""

SET_USER_RETENTION: Final = """
INSERT INTO users (user_id, keep_days, created_at_ms) VALUES (:user_id, :keep_days, :created_at_ms)
ON CONFLICT (user_id) DO UPDATE SET keep_days = excluded.keep_days"""

SET_CONVERSATION_RETENTION: Final = """
UPDATE conversations SET keep_days = :keep_days
WHERE user_id = :user_id AND conversation_id = :conversation_id AND deleted_at_ms IS NULL"""

# --- budgets

SET_CAPS: Final = """
INSERT INTO users (user_id, caps, created_at_ms) VALUES (:user_id, :caps, :created_at_ms)
ON CONFLICT (user_id) DO UPDATE SET caps = excluded.caps"""

SET_TEAM: Final = """
INSERT INTO users (user_id, team, created_at_ms) VALUES (:user_id, :team, :created_at_ms)
ON CONFLICT (user_id) DO UPDATE SET team = excluded.team"""

SET_TEAM_CAPS: Final = """
INSERT INTO teams (team, caps) VALUES (:team, :caps) ON CONFLICT (team) DO UPDATE SET caps = excluded.caps"""

SELECT_CAPS: Final = "SELECT user_id, team, caps FROM users WHERE team IS NOT NULL OR caps IS NOT NULL"

SELECT_TEAMS: Final = "SELECT team, caps FROM teams WHERE caps IS NOT NULL ORDER BY team"

SELECT_MONEY_CAPS: Final = """
SELECT caps FROM users WHERE caps LIKE '%microUsd%' UNION SELECT caps FROM teams WHERE caps LIKE '%microUsd%'"""

SELECT_COUNTERS: Final = "SELECT holder, period, used, reserved FROM budgets"

# --- who there is

_USERS: Final = """
SELECT (SELECT MAX(g.last_accepted_at_ms) FROM usage g WHERE g.user_id = u.user_id),
  (SELECT MAX(r.accepted_at_ms) FROM requests r
    WHERE r.user_id = u.user_id AND r.forgotten IS NULL AND r.question IS NOT NULL),
  u.user_id, u.per_minute, u.team, u.keep_days, u.created_at_ms,
  (SELECT COUNT(*) FROM conversations c WHERE c.user_id = u.user_id AND c.deleted_at_ms IS NULL) AS conversations,
  (SELECT COUNT(*) FROM requests t JOIN conversations c
      ON c.user_id = t.user_id AND c.conversation_id = t.conversation_id AND c.deleted_at_ms IS NULL
    WHERE t.user_id = u.user_id AND t.ended_at_ms IS NOT NULL AND t.superseded_by IS NULL) AS turns
FROM ({source}) AS u ORDER BY u.user_id"""

SELECT_USER: Final = _USERS.format(source="SELECT * FROM users WHERE user_id = :user_id")

SELECT_USERS: Final = _USERS.format(source="SELECT * FROM users WHERE user_id > :after ORDER BY user_id LIMIT :limit")

# What rows used that are not in the table `usage`, by user, day since the epoch and model.
SELECT_USED: Final = """
SELECT user_id, CAST(ended_at_ms / 86400000 AS text), COALESCE(model, ''), COUNT(*),
  CAST(SUM(COALESCE(input_tokens, 0)) AS bigint), CAST(SUM(COALESCE(output_tokens, 0)) AS bigint), MAX(accepted_at_ms)
FROM requests
WHERE ended_at_ms IS NOT NULL AND counted IS NULL AND forgotten IS NULL AND question IS NOT NULL AND {condition}
GROUP BY 1, 2, 3"""

SELECT_USAGE: Final = f"""
SELECT user_id, day, '', requests, input_tokens, output_tokens, last_accepted_at_ms FROM usage WHERE {{condition}}
UNION ALL{SELECT_USED}"""  # noqa: S608 - the text above

SELECT_MODEL_USAGE: Final = f"""
SELECT user_id, day, model, requests, input_tokens, output_tokens, 0 FROM model_usage WHERE {{condition}}
UNION ALL{SELECT_USED}"""  # noqa: S608 - the text above

COUNT_USAGE: Final = """
INSERT INTO usage (user_id, day, requests, input_tokens, output_tokens, last_accepted_at_ms)
VALUES (:user_id, :day, :requests, :input_tokens, :output_tokens, :last_accepted_at_ms)
ON CONFLICT (user_id, day) DO UPDATE SET requests = usage.requests + excluded.requests,
  input_tokens = usage.input_tokens + excluded.input_tokens,
  output_tokens = usage.output_tokens + excluded.output_tokens,
  last_accepted_at_ms = CASE WHEN usage.last_accepted_at_ms > excluded.last_accepted_at_ms
    THEN usage.last_accepted_at_ms ELSE excluded.last_accepted_at_ms END"""

COUNT_MODEL_USAGE: Final = """
INSERT INTO model_usage (user_id, day, model, requests, input_tokens, output_tokens)
VALUES (:user_id, :day, :model, :requests, :input_tokens, :output_tokens)
ON CONFLICT (user_id, day, model) DO UPDATE SET requests = model_usage.requests + excluded.requests,
  input_tokens = model_usage.input_tokens + excluded.input_tokens,
  output_tokens = model_usage.output_tokens + excluded.output_tokens"""

# --- files that come with questions ---------------------------------------------------------------------------

_FILE: Final = "user_id = :user_id AND sha256 = :sha256 AND bytes = :bytes"

SELECT_UPLOAD: Final = f"""
SELECT upload, begun_at_ms, completed_at_ms, content FROM uploads WHERE {_FILE}"""  # noqa: S608 - the text above

SELECT_HAVE: Final = "SELECT piece FROM pieces WHERE upload = :upload"

SELECT_DATA: Final = "SELECT data FROM pieces WHERE upload = :upload ORDER BY piece"

SELECT_RANGE: Final = f"""
SELECT data FROM pieces JOIN uploads USING (upload)
WHERE {_FILE} AND completed_at_ms IS NOT NULL AND piece BETWEEN :first AND :last ORDER BY piece"""  # noqa: S608 - above

SELECT_OPEN_UPLOADS: Final = """
SELECT upload, COALESCE(touched_at_ms, begun_at_ms) FROM uploads
WHERE user_id = :user_id AND completed_at_ms IS NULL"""

SELECT_BEGUN: Final = "SELECT bytes FROM begun_uploads WHERE user_id = :user_id AND day = :day"

COUNT_BEGUN: Final = """
INSERT INTO begun_uploads (user_id, day, bytes) VALUES (:user_id, :day, :bytes)
ON CONFLICT (user_id) DO UPDATE SET day = excluded.day,
  bytes = excluded.bytes + CASE WHEN begun_uploads.day = excluded.day THEN begun_uploads.bytes ELSE 0 END"""

BEGIN_UPLOAD: Final = """
INSERT INTO uploads (user_id, sha256, bytes, upload, begun_at_ms)
VALUES (:user_id, :sha256, :bytes, :upload, :begun_at_ms) ON CONFLICT (user_id, sha256, bytes) DO NOTHING"""

PUT_PIECE: Final = """
INSERT INTO pieces (upload, piece, data)
SELECT upload, CAST(:piece AS integer), :data FROM uploads
WHERE user_id = :user_id AND upload = :upload AND completed_at_ms IS NULL
ON CONFLICT (upload, piece) DO NOTHING"""

TOUCH_UPLOAD: Final = """
UPDATE uploads SET touched_at_ms = :now_ms
WHERE user_id = :user_id AND upload = :upload AND completed_at_ms IS NULL"""

COMPLETE_UPLOAD: Final = f"""
UPDATE uploads SET completed_at_ms = :completed_at_ms, content = :content
WHERE {_FILE} AND upload = :upload"""  # noqa: S608 - the text above

FORGET_UPLOAD: Final = """
DELETE FROM uploads WHERE user_id = :user_id AND upload = :upload AND completed_at_ms IS NULL"""

FORGET_ITS_PIECES: Final = "DELETE FROM pieces WHERE upload = :upload"

FORGET_UPLOADS: Final = """
DELETE FROM uploads
WHERE (completed_at_ms IS NULL AND begun_at_ms < :begun_before_ms)
  OR (completed_at_ms < :completed_before_ms AND NOT EXISTS (
    SELECT 1 FROM requests r
    WHERE r.user_id = uploads.user_id AND r.attachments LIKE '%' || uploads.sha256 || '%'))"""
"""Unfinished uploads that began before then, and files that nothing can name any more."""

# After it: the uploads decide alone, so a gateway that completes or fills one meanwhile leaves no half of a file.
FORGET_PIECES: Final = "DELETE FROM pieces WHERE upload NOT IN (SELECT upload FROM uploads)"

# --- migrations ---------------------------------------------------------------------------------------------

CREATE_COLLATION: Final = """CREATE COLLATION IF NOT EXISTS "binary" FROM "C" """
"""PostgreSQL's alone: SQLite has a collation by that name."""

CREATE_MIGRATIONS: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  version integer NOT NULL, name text NOT NULL, applied_at_ms bigint NOT NULL, PRIMARY KEY (version))"""

SELECT_VERSION: Final = """
SELECT COALESCE(MAX(version), 0) FROM schema_migrations"""

INSERT_MIGRATION: Final = """
INSERT INTO schema_migrations (version, name, applied_at_ms) VALUES (:version, :name, :applied_at_ms)"""
