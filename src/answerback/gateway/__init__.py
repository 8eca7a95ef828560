"""The embedded gateway: sockets, the in-process queue, admin HTTP, and the composition root."""
