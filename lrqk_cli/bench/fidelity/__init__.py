"""How far LRQK's next-token distributions are from full attention's, along full attention's own answers."""
