-- What several gateways on one database need besides. A gateway that has the database for itself leaves it as it is.
--
-- `node`: the gateway that is to run an unfinished request, its home. `noted_by`: another gateway has changed the
-- record last. `minute`, `accepted`, `accepted_before`: requests accepted in that minute (since the epoch) and in the
-- one before it.
ALTER TABLE requests ADD COLUMN node text COLLATE "binary";
ALTER TABLE requests ADD COLUMN ordering_key text COLLATE "binary";
ALTER TABLE requests ADD COLUMN noted_by text COLLATE "binary";
CREATE INDEX requests_home ON requests (node, n) WHERE ended_at_ms IS NULL;
ALTER TABLE users ADD COLUMN minute bigint;
ALTER TABLE users ADD COLUMN accepted integer;
ALTER TABLE users ADD COLUMN accepted_before integer;
ALTER TABLE users SET (fillfactor = 70);

CREATE SEQUENCE request_n;

-- The address of a session: the newest of its connections, wherever that is.
CREATE TABLE sessions (
  user_id text COLLATE "binary" NOT NULL,
  session_id text COLLATE "binary" NOT NULL,
  generation bigint NOT NULL,
  connected_at_ms bigint NOT NULL,
  connection_id text COLLATE "binary" NOT NULL,
  replaced text,
  PRIMARY KEY (user_id, session_id)
);

-- `state`: serving, standby, draining or gone. Times are the database's.
CREATE TABLE nodes (
  node text COLLATE "binary" NOT NULL,
  incarnation text NOT NULL,
  state text NOT NULL,
  started_at_ms bigint NOT NULL,
  beat_at_ms bigint NOT NULL,
  reads_schema integer NOT NULL,
  version text NOT NULL,
  facts text NOT NULL,
  PRIMARY KEY (node)
);

CREATE TABLE leases (
  name text COLLATE "binary" NOT NULL,
  holder text NOT NULL,
  until_ms bigint NOT NULL,
  PRIMARY KEY (name)
);
