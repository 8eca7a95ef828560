"""Signing in with OpenID Connect in the system browser (RFC 8252, PKCE)."""
