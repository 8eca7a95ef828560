"""A gateway on this machine, run by the app as a child process."""
