-- Who watches a conversation ('': the list of them), at which connection and until when. `is_off`: no longer; it stays
-- for a while because an older frame of the session may come behind it.
CREATE TABLE watchers (
  user_id text COLLATE "binary" NOT NULL,
  conversation_id text COLLATE "binary" NOT NULL,
  session_id text COLLATE "binary" NOT NULL,
  connection_id text COLLATE "binary" NOT NULL,
  generation bigint NOT NULL,
  number bigint NOT NULL,
  is_off integer NOT NULL,
  until_ms bigint NOT NULL,
  PRIMARY KEY (user_id, conversation_id, session_id)
);
