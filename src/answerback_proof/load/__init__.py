"""The load tool: many cheap clients, a check of every frame, and figures that compare.

It speaks WebSocket by itself, because a load generator that costs more than the server measures the load generator.
"""
