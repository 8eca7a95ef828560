-- Where the parts of an answer begin, as JSON: [[offset, kind, name], ...]. Null for an answer that is text alone.
ALTER TABLE requests ADD COLUMN marks text;
