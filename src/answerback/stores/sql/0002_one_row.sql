-- A request is one row: its record, its question and answer, and its turn in the history. `n` is the order of
-- acceptance, the turn's position, and the address of every later write.
--
-- `question` is null for a refusal or an early cancellation. `conversation_id` is null for those, and for a turn that is
-- not in the history any more. `forgotten`: retention has emptied the record, the turn stays and the id is free.
-- `counted`: what it used is in the table `usage`; of all others usage is the sum of their rows.
--
-- SQLite reads `integer PRIMARY KEY` and `group_concat` here, Aurora no primary key: its `n` is unique inside a
-- conversation only.
DROP INDEX requests_unfinished;
DROP INDEX requests_ended;
DROP INDEX requests_refused;
ALTER TABLE requests RENAME TO old_requests;

CREATE TABLE requests (
  n bigint PRIMARY KEY,
  user_id text COLLATE "binary" NOT NULL,
  request_id text COLLATE "binary" NOT NULL,
  conversation_id text COLLATE "binary",
  accepted_at_ms bigint NOT NULL,
  ended_at_ms bigint,
  forgotten integer,
  counted integer,
  superseded_by text,
  replaces text,
  status text,
  model text,
  error_code text,
  input_tokens bigint,
  output_tokens bigint,
  record_schema integer NOT NULL,
  record text NOT NULL,
  options text,
  system text,
  question text,
  answer text
);

INSERT INTO requests (n, user_id, request_id, conversation_id, accepted_at_ms, ended_at_ms, counted, superseded_by,
  replaces, status, model, error_code, input_tokens, output_tokens, record_schema, record, options, system, question,
  answer)
SELECT r.seq, r.user_id, r.request_id,
  CASE WHEN r.ended_at_ms IS NULL OR t.request_id IS NOT NULL THEN r.conversation_id END,
  COALESCE(t.accepted_at_ms, r.accepted_at_ms), r.ended_at_ms, CASE WHEN r.ended_at_ms IS NOT NULL THEN 1 END,
  t.superseded_by, t.replaces, t.status, t.model, t.error_code, t.input_tokens, t.output_tokens, r.record_schema,
  r.record, r.options,
  (SELECT string_agg(x.text, '') FROM (SELECT text FROM texts WHERE user_id = r.user_id
    AND request_id = r.request_id AND position = r.seq AND role = 'system' ORDER BY piece) AS x),
  COALESCE((SELECT string_agg(x.text, '') FROM (SELECT text FROM texts WHERE user_id = r.user_id
    AND request_id = r.request_id AND position = r.seq AND role = 'question' ORDER BY piece) AS x), ''),
  (SELECT string_agg(x.text, '') FROM (SELECT text FROM texts WHERE user_id = r.user_id
    AND request_id = r.request_id AND position = r.seq AND role = 'answer' ORDER BY piece) AS x)
FROM old_requests r LEFT JOIN turns t
  ON t.user_id = r.user_id AND t.conversation_id = r.conversation_id AND t.position = r.seq
  AND t.request_id = r.request_id
WHERE r.seq IS NOT NULL;

INSERT INTO requests (n, user_id, request_id, conversation_id, accepted_at_ms, ended_at_ms, forgotten, counted,
  superseded_by, replaces, status, model, error_code, input_tokens, output_tokens, record_schema, record, question,
  answer)
SELECT t.position, t.user_id, t.request_id, t.conversation_id, t.accepted_at_ms, t.ended_at_ms, 1, 1, t.superseded_by,
  t.replaces, t.status, t.model, t.error_code, t.input_tokens, t.output_tokens, 0, '',
  COALESCE((SELECT string_agg(x.text, '') FROM (SELECT text FROM texts WHERE user_id = t.user_id
    AND request_id = t.request_id AND position = t.position AND role = 'question' ORDER BY piece) AS x), ''),
  (SELECT string_agg(x.text, '') FROM (SELECT text FROM texts WHERE user_id = t.user_id
    AND request_id = t.request_id AND position = t.position AND role = 'answer' ORDER BY piece) AS x)
FROM turns t
WHERE NOT EXISTS (
  SELECT 1 FROM old_requests r
  WHERE r.user_id = t.user_id AND r.request_id = t.request_id AND r.seq = t.position
    AND r.conversation_id = t.conversation_id
);

-- Refusals had no number; `counters` has one above all that were given out.
INSERT INTO requests (n, user_id, request_id, accepted_at_ms, ended_at_ms, record_schema, record)
SELECT c.value + ROW_NUMBER() OVER (ORDER BY r.accepted_at_ms, r.user_id, r.request_id), r.user_id, r.request_id,
  r.accepted_at_ms, r.ended_at_ms, r.record_schema, r.record
FROM old_requests r, counters c
WHERE r.seq IS NULL AND c.name = 'seq';

CREATE UNIQUE INDEX requests_id ON requests (user_id, request_id) WHERE forgotten IS NULL;
CREATE INDEX requests_conversation ON requests (user_id, conversation_id, n) WHERE conversation_id IS NOT NULL;
CREATE INDEX requests_unfinished ON requests (user_id, n) WHERE ended_at_ms IS NULL;
CREATE INDEX requests_ended ON requests (ended_at_ms) WHERE ended_at_ms IS NOT NULL AND forgotten IS NULL;
CREATE INDEX requests_refused ON requests (ended_at_ms) WHERE question IS NULL;

-- `n`: no request had a higher number. `store_id`: made once, the same for as long as the data are. `probe`: a write
-- that shows whether the disk takes one.
CREATE TABLE marks (
  name text COLLATE "binary" NOT NULL,
  value text NOT NULL,
  PRIMARY KEY (name)
);
INSERT INTO marks (name, value) SELECT 'n', CAST(value AS text) FROM counters WHERE name = 'seq';

DROP TABLE old_requests;
DROP TABLE turns;
DROP TABLE texts;
DROP TABLE counters;
