"""Conversations: their state, their events and their files. Nothing here draws on a terminal."""
