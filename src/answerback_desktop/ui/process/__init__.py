"""What the app is as a process: one a profile, one log, no silent deaths."""
