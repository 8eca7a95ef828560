-- Files that come with questions. An upload is one try at bringing a file: `upload` is its random name, `content` what
-- its bytes turned out to be. A piece is kept only as long as its upload.
CREATE TABLE uploads (
  user_id text COLLATE "binary" NOT NULL,
  sha256 text COLLATE "binary" NOT NULL,
  bytes bigint NOT NULL,
  upload text COLLATE "binary" NOT NULL,
  begun_at_ms bigint NOT NULL,
  completed_at_ms bigint,
  content text,
  PRIMARY KEY (user_id, sha256, bytes)
);

CREATE TABLE pieces (
  upload text COLLATE "binary" NOT NULL,
  piece integer NOT NULL,
  data bytea NOT NULL,
  PRIMARY KEY (upload, piece)
);

-- The files that a turn names, as JSON. They stay with the turn, `options` goes with the record.
ALTER TABLE requests ADD COLUMN attachments text;
CREATE INDEX requests_attached ON requests (user_id) WHERE attachments IS NOT NULL;
