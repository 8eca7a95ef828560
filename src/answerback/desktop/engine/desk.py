"""What the engine does in its loop: the account, its client, its store, the sync, the sign-in and the gateway."""
