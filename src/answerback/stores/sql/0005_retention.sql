-- How many days a conversation stays after its last turn: its own `keep_days`, else its user's, else the gateway's.
ALTER TABLE users ADD COLUMN keep_days bigint;
ALTER TABLE conversations ADD COLUMN keep_days bigint;
