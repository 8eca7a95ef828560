-- When something came last for an unfinished upload, and what a user has begun to upload on a day, a number since the
-- epoch, in bytes.
ALTER TABLE uploads ADD COLUMN touched_at_ms bigint;
CREATE TABLE begun_uploads (
  user_id text COLLATE "binary" NOT NULL,
  day bigint NOT NULL,
  bytes bigint NOT NULL,
  PRIMARY KEY (user_id)
);
