"""Settings, shortcuts, about: dialogs over the window."""
