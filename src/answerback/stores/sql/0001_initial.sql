-- SQLite, PostgreSQL and the RDS Data API run this text unchanged: only text, bigint and integer columns, times in
-- epoch milliseconds. "binary" is SQLite's own collation; on PostgreSQL the runner makes it a name of "C". Keys then
-- sort by code point everywhere, and compare fast.

-- What decides about a request: `record` is core.request.Record as JSON, of version `record_schema`. `seq` is the order
-- of acceptance; it is null for a refusal or an early cancellation, which have no question and never reach the history.
-- `options` is the question without its texts, `title` what a conversation that begins with it is called.
CREATE TABLE requests (
  user_id text COLLATE "binary" NOT NULL,
  request_id text COLLATE "binary" NOT NULL,
  seq bigint,
  conversation_id text COLLATE "binary" NOT NULL,
  accepted_at_ms bigint NOT NULL,
  ended_at_ms bigint,
  title text,
  options text,
  record_schema integer NOT NULL,
  record text NOT NULL,
  PRIMARY KEY (user_id, request_id)
);
CREATE INDEX requests_unfinished ON requests (user_id, seq) WHERE ended_at_ms IS NULL;
CREATE INDEX requests_ended ON requests (ended_at_ms) WHERE ended_at_ms IS NOT NULL;
CREATE INDEX requests_refused ON requests (ended_at_ms) WHERE seq IS NULL;

-- The one copy of every question, system text and answer, in pieces that fit a row of the RDS Data API (64 KB).
-- `position` is the `seq` of the request: an id that is used again after its record was purged has texts of its own.
CREATE TABLE texts (
  user_id text COLLATE "binary" NOT NULL,
  request_id text COLLATE "binary" NOT NULL,
  position bigint NOT NULL,
  role text COLLATE "binary" NOT NULL,
  piece integer NOT NULL,
  text text NOT NULL,
  PRIMARY KEY (user_id, request_id, position, role, piece)
);

CREATE TABLE turns (
  user_id text COLLATE "binary" NOT NULL,
  conversation_id text COLLATE "binary" NOT NULL,
  position bigint NOT NULL,
  request_id text COLLATE "binary" NOT NULL,
  status text NOT NULL,
  accepted_at_ms bigint NOT NULL,
  ended_at_ms bigint NOT NULL,
  model text,
  replaces text,
  error_code text,
  input_tokens bigint,
  output_tokens bigint,
  superseded_by text,
  PRIMARY KEY (user_id, conversation_id, position, request_id)
);

CREATE TABLE conversations (
  user_id text COLLATE "binary" NOT NULL,
  conversation_id text COLLATE "binary" NOT NULL,
  title text NOT NULL,
  created_at_ms bigint NOT NULL,
  updated_at_ms bigint NOT NULL,
  deleted_at_ms bigint,
  PRIMARY KEY (user_id, conversation_id)
);
CREATE INDEX conversations_by_use ON conversations (user_id, updated_at_ms, conversation_id)
  WHERE deleted_at_ms IS NULL;
CREATE INDEX conversations_deleted ON conversations (deleted_at_ms) WHERE deleted_at_ms IS NOT NULL;

CREATE TABLE users (
  user_id text COLLATE "binary" NOT NULL,
  per_minute bigint,
  created_at_ms bigint NOT NULL,
  PRIMARY KEY (user_id)
);

CREATE TABLE usage (
  user_id text COLLATE "binary" NOT NULL,
  day text COLLATE "binary" NOT NULL,
  requests bigint NOT NULL,
  input_tokens bigint NOT NULL,
  output_tokens bigint NOT NULL,
  last_accepted_at_ms bigint NOT NULL,
  PRIMARY KEY (user_id, day)
);

-- Numbers that only grow. `seq`: no request has a higher one; the writer reserves a thousand at a time.
CREATE TABLE counters (
  name text COLLATE "binary" NOT NULL,
  value bigint NOT NULL,
  PRIMARY KEY (name)
);
INSERT INTO counters (name, value) VALUES ('seq', 0);
