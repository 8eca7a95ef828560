"""What is asked and answered in the screenshots of the desktop app."""
