"""The main window around the chat."""
