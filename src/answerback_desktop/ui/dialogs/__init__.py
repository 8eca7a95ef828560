"""Settings, shortcuts, about: sheets over the window."""
