"""Errors, console, files, random numbers."""
