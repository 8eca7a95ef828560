"""The main window: the conversations at the left, the header, and what comes over the chat."""
