"""The exact weights of the resident rows, added up by token."""
