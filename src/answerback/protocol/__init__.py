"""The wire protocol, version 1: typed frames, their codec, the closed list of error codes, and the limits.

PROTOCOL.md is the authority; this package is its executable form and imports nothing else of ours.
"""
