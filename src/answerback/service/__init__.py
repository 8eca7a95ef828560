"""The one orchestration that both deployments run: front, worker and janitor, against ports.py."""
