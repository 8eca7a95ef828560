"""The conversations at the left: the list, the search through all text."""
