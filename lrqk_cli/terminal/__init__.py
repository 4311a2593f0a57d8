"""The terminal: views, keyboard input, the interactive chat and its commands."""
