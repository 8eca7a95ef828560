"""The chat pane: the conversation's transcript, the composer, and the states around them."""
