"""The `answerback` command. Each module is one command; what it needs beyond the base is imported when it runs."""
