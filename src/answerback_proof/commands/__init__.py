"""The commands that check or measure: simulate, conform, bench."""
