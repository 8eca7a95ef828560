"""Every SQL statement of the stores, once, for SQLite, PostgreSQL and the RDS Data API.

Rules: `:name` parameters; no data modification inside a WITH; upserts that may be repeated; a parameter stands where
its type is clear from a column, else in a CAST. The texts are constants so that drivers keep them prepared.
"""

from typing import Final

# --- requests and their texts -------------------------------------------------------------------------------

INSERT_REQUEST: Final = """
INSERT INTO requests (user_id, request_id, seq, conversation_id, accepted_at_ms, ended_at_ms, title, options,
  record_schema, record)
VALUES (:user_id, :request_id, :seq, :conversation_id, :accepted_at_ms, :ended_at_ms, :title, :options,
  :record_schema, :record)
ON CONFLICT (user_id, request_id) DO NOTHING"""

UPDATE_RECORD: Final = """
UPDATE requests SET record = :record, record_schema = :record_schema
WHERE user_id = :user_id AND request_id = :request_id"""

END_REQUEST: Final = """
UPDATE requests SET record = :record, record_schema = :record_schema, ended_at_ms = :ended_at_ms
WHERE user_id = :user_id AND request_id = :request_id"""

SELECT_REQUEST: Final = """
SELECT record, record_schema FROM requests WHERE user_id = :user_id AND request_id = :request_id"""

SELECT_UNFINISHED: Final = """
SELECT record, record_schema, seq, title, options FROM requests
WHERE ended_at_ms IS NULL ORDER BY seq"""

SELECT_QUESTION: Final = """
SELECT r.options, x.role, x.text
FROM requests r LEFT JOIN texts x
  ON x.user_id = r.user_id AND x.request_id = r.request_id AND x.position = r.seq AND x.role IN ('question', 'system')
WHERE r.user_id = :user_id AND r.request_id = :request_id
ORDER BY x.role, x.piece"""

SELECT_ANSWER: Final = """
SELECT x.text
FROM requests r JOIN texts x
  ON x.user_id = r.user_id AND x.request_id = r.request_id AND x.position = r.seq AND x.role = 'answer'
WHERE r.user_id = :user_id AND r.request_id = :request_id
ORDER BY x.piece"""

INSERT_TEXT: Final = """
INSERT INTO texts (user_id, request_id, position, role, piece, text)
VALUES (:user_id, :request_id, :position, :role, :piece, :text)
ON CONFLICT (user_id, request_id, position, role, piece) DO NOTHING"""

DELETE_TEXTS: Final = """
DELETE FROM texts WHERE user_id = :user_id AND request_id = :request_id AND position = :position"""

RAISE_COUNTER: Final = """
UPDATE counters SET value = :value WHERE name = :name AND value < :value"""

PUT_COUNTER: Final = """
INSERT INTO counters (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value"""

SELECT_COUNTER: Final = """
SELECT value FROM counters WHERE name = :name"""

SELECT_LAST_END: Final = """
SELECT MAX(ended_at_ms) FROM requests WHERE ended_at_ms IS NOT NULL"""

SELECT_ACCEPTED_SINCE: Final = """
SELECT user_id, accepted_at_ms FROM requests
WHERE ended_at_ms IS NULL AND seq IS NOT NULL AND accepted_at_ms >= :since_ms
UNION ALL
SELECT user_id, accepted_at_ms FROM requests
WHERE ended_at_ms >= :since_ms AND seq IS NOT NULL AND accepted_at_ms >= :since_ms"""

# A text that a turn needs stays; a purge takes the oldest first, a bounded number at a time.
PURGE_TEXTS: Final = """
DELETE FROM texts WHERE (user_id, request_id, position) IN (
  SELECT r.user_id, r.request_id, r.seq
  FROM (
    SELECT user_id, request_id, seq, conversation_id FROM requests
    WHERE ended_at_ms < :before_ms ORDER BY ended_at_ms, user_id, request_id LIMIT :limit
  ) AS r
  WHERE NOT EXISTS (
    SELECT 1 FROM turns t
    WHERE t.user_id = r.user_id AND t.conversation_id = r.conversation_id AND t.position = r.seq
      AND t.request_id = r.request_id
  )
)"""

PURGE_REQUESTS: Final = """
DELETE FROM requests WHERE (user_id, request_id) IN (
  SELECT user_id, request_id FROM requests
  WHERE ended_at_ms < :before_ms ORDER BY ended_at_ms, user_id, request_id LIMIT :limit
)"""

PURGE_REFUSALS: Final = """
DELETE FROM requests WHERE (user_id, request_id) IN (
  SELECT user_id, request_id FROM requests
  WHERE seq IS NULL AND ended_at_ms < :before_ms ORDER BY ended_at_ms, user_id, request_id LIMIT :limit
)"""

# --- history ------------------------------------------------------------------------------------------------

INSERT_TURN: Final = """
INSERT INTO turns (user_id, conversation_id, position, request_id, status, accepted_at_ms, ended_at_ms, model, replaces,
  error_code, input_tokens, output_tokens)
VALUES (:user_id, :conversation_id, :position, :request_id, :status, :accepted_at_ms, :ended_at_ms, :model, :replaces,
  :error_code, :input_tokens, :output_tokens)
ON CONFLICT (user_id, conversation_id, position, request_id) DO NOTHING"""

SUPERSEDE: Final = """
UPDATE turns SET superseded_by = :request_id
WHERE user_id = :user_id AND conversation_id = :conversation_id AND superseded_by IS NULL AND position < :position
  AND position >= (
    SELECT MAX(r.position) FROM turns r
    WHERE r.user_id = :user_id AND r.conversation_id = :conversation_id AND r.request_id = :replaces
      AND r.position < :position
  )"""

UPSERT_CONVERSATION: Final = """
INSERT INTO conversations (user_id, conversation_id, title, created_at_ms, updated_at_ms)
VALUES (:user_id, :conversation_id, :title, :created_at_ms, :updated_at_ms)
ON CONFLICT (user_id, conversation_id) DO UPDATE SET updated_at_ms = excluded.updated_at_ms
WHERE conversations.updated_at_ms < excluded.updated_at_ms"""

# One row a piece of text, so that a long turn is never one long row.
_TURNS_WITH_TEXTS: Final = """
SELECT t.position, t.request_id, t.status, t.accepted_at_ms, t.ended_at_ms, t.model, t.replaces, t.error_code,
  t.input_tokens, t.output_tokens, x.role, x.text
FROM (
  SELECT * FROM turns
  WHERE user_id = :user_id AND conversation_id = :conversation_id AND superseded_by IS NULL AND {condition}
    AND NOT EXISTS (
      SELECT 1 FROM conversations c
      WHERE c.user_id = :user_id AND c.conversation_id = :conversation_id AND c.deleted_at_ms IS NOT NULL
    )
  ORDER BY position DESC, request_id DESC LIMIT :limit
) AS t LEFT JOIN texts x
  ON x.user_id = t.user_id AND x.request_id = t.request_id AND x.position = t.position
  AND x.role IN ('question', 'answer')
ORDER BY t.position DESC, t.request_id DESC, x.role, x.piece"""

SELECT_TURNS: Final = _TURNS_WITH_TEXTS.format(condition="position < :before")

SELECT_TURNS_BETWEEN: Final = _TURNS_WITH_TEXTS.format(condition="position < :before AND position >= :since")

SELECT_RECENT_TURNS: Final = _TURNS_WITH_TEXTS.format(condition="position < :before AND status = 'completed'")

SELECT_POSITION: Final = """
SELECT MAX(p.position) FROM (
  SELECT seq AS position FROM requests
  WHERE user_id = :user_id AND request_id = :request_id AND conversation_id = :conversation_id
  UNION ALL
  SELECT position FROM turns
  WHERE user_id = :user_id AND conversation_id = :conversation_id AND request_id = :request_id
) AS p"""

_CONVERSATIONS: Final = """
SELECT c.conversation_id, c.title, c.created_at_ms, c.updated_at_ms, c.deleted_at_ms, (
    SELECT COUNT(*) FROM turns t
    WHERE t.user_id = c.user_id AND t.conversation_id = c.conversation_id AND t.superseded_by IS NULL
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

DELETE_CONVERSATION: Final = """
UPDATE conversations SET deleted_at_ms = :deleted_at_ms
WHERE user_id = :user_id AND conversation_id = :conversation_id"""

SELECT_DELETED_CONVERSATIONS: Final = """
SELECT user_id, conversation_id, deleted_at_ms FROM conversations WHERE deleted_at_ms IS NOT NULL"""

# Texts whose request can still be asked for stay until it is purged.
ERASE_CONVERSATION: Final = (
    """
DELETE FROM texts WHERE (user_id, request_id, position) IN (
  SELECT t.user_id, t.request_id, t.position FROM turns t
  WHERE t.user_id = :user_id AND t.conversation_id = :conversation_id
    AND NOT EXISTS (
      SELECT 1 FROM requests r
      WHERE r.user_id = t.user_id AND r.request_id = t.request_id AND r.seq = t.position
    )
)""",
    "DELETE FROM turns WHERE user_id = :user_id AND conversation_id = :conversation_id",
    "DELETE FROM conversations WHERE user_id = :user_id AND conversation_id = :conversation_id",
)

# --- users --------------------------------------------------------------------------------------------------

INSERT_USER: Final = """
INSERT INTO users (user_id, created_at_ms) VALUES (:user_id, :created_at_ms)
ON CONFLICT (user_id) DO NOTHING"""

SET_LIMIT: Final = """
INSERT INTO users (user_id, per_minute, created_at_ms) VALUES (:user_id, :per_minute, :created_at_ms)
ON CONFLICT (user_id) DO UPDATE SET per_minute = excluded.per_minute"""

SELECT_LIMIT: Final = """
SELECT per_minute FROM users WHERE user_id = :user_id"""

_USERS: Final = """
SELECT u.user_id, u.per_minute, u.created_at_ms,
  (SELECT MAX(g.last_accepted_at_ms) FROM usage g WHERE g.user_id = u.user_id) AS ended,
  (SELECT MAX(r.accepted_at_ms) FROM requests r
    WHERE r.user_id = u.user_id AND r.ended_at_ms IS NULL AND r.seq IS NOT NULL) AS unfinished,
  (SELECT COUNT(*) FROM conversations c WHERE c.user_id = u.user_id AND c.deleted_at_ms IS NULL) AS conversations,
  (SELECT COUNT(*) FROM turns t JOIN conversations c
      ON c.user_id = t.user_id AND c.conversation_id = t.conversation_id AND c.deleted_at_ms IS NULL
    WHERE t.user_id = u.user_id AND t.superseded_by IS NULL) AS turns
FROM ({source}) AS u ORDER BY u.user_id"""

SELECT_USER: Final = _USERS.format(source="SELECT * FROM users WHERE user_id = :user_id")

SELECT_USERS: Final = _USERS.format(
    source="SELECT * FROM users WHERE user_id > :after ORDER BY user_id LIMIT :limit",
)

UPSERT_USAGE: Final = """
INSERT INTO usage (user_id, day, requests, input_tokens, output_tokens, last_accepted_at_ms)
VALUES (:user_id, :day, 1, :input_tokens, :output_tokens, :accepted_at_ms)
ON CONFLICT (user_id, day) DO UPDATE SET requests = usage.requests + 1,
  input_tokens = usage.input_tokens + excluded.input_tokens,
  output_tokens = usage.output_tokens + excluded.output_tokens,
  last_accepted_at_ms = CASE WHEN usage.last_accepted_at_ms > excluded.last_accepted_at_ms
    THEN usage.last_accepted_at_ms ELSE excluded.last_accepted_at_ms END"""

SELECT_USAGE: Final = """
SELECT user_id, day, requests, input_tokens, output_tokens FROM usage
WHERE day >= :since_day ORDER BY day, user_id"""

SELECT_USER_USAGE: Final = """
SELECT user_id, day, requests, input_tokens, output_tokens FROM usage
WHERE user_id = :user_id AND day >= :since_day ORDER BY day"""

DELETE_USER: Final = tuple(
    f"DELETE FROM {table} WHERE user_id = :user_id"  # noqa: S608 - the names are the ones below
    for table in ("requests", "texts", "turns", "conversations", "usage", "users")
)

# --- migrations ---------------------------------------------------------------------------------------------

CREATE_MIGRATIONS: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  version integer NOT NULL, name text NOT NULL, applied_at_ms bigint NOT NULL, PRIMARY KEY (version))"""

SELECT_VERSION: Final = """
SELECT COALESCE(MAX(version), 0) FROM schema_migrations"""

INSERT_MIGRATION: Final = """
INSERT INTO schema_migrations (version, name, applied_at_ms) VALUES (:version, :name, :applied_at_ms)"""
