"""Models: where they come from, what shape they have, how they load and how a chat becomes tokens."""
