"""Pulls of images."""
