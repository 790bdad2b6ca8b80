"""The driver of docker compose services, and what it needs."""
