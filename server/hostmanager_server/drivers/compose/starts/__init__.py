"""Starts of compose services: compose makes the containers, the engine starts them."""
