"""The engine: the client, the local store and the sync with the server, on a thread of their own."""
