"""Compare LRQK's next-token distributions with full attention's, along full attention's own answers."""
