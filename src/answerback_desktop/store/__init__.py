"""The local data of one account: what was said, what waits to be asked, what is typed. Crash-safe SQLite."""
