-- `caps`: the budgets of a user or a team, such as `20000000 microUsd month,5000 tokens day`.
ALTER TABLE users ADD COLUMN team text COLLATE "binary";
ALTER TABLE users ADD COLUMN caps text;
CREATE TABLE teams (
  team text COLLATE "binary" NOT NULL,
  caps text,
  PRIMARY KEY (team)
);

-- The counters. `holder` is a user's id, or `team NAME`: no user id has a space. `used` is what was settled and what is
-- reserved. `until_ms`: when the window ends.
CREATE TABLE budgets (
  holder text COLLATE "binary" NOT NULL,
  period text COLLATE "binary" NOT NULL,
  until_ms bigint NOT NULL,
  used bigint NOT NULL,
  reserved bigint NOT NULL,
  PRIMARY KEY (holder, period)
);

-- As `usage`, by model as well. What was counted before has no row here.
CREATE TABLE model_usage (
  user_id text COLLATE "binary" NOT NULL,
  day text COLLATE "binary" NOT NULL,
  model text COLLATE "binary" NOT NULL,
  requests bigint NOT NULL,
  input_tokens bigint NOT NULL,
  output_tokens bigint NOT NULL,
  PRIMARY KEY (user_id, day, model)
);
