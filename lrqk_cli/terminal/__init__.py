"""All that draws on a terminal or reads keys: views, the interactive chat and its commands."""
