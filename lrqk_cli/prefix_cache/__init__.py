"""Documents that were read before, on the disk: blocks of tokens with their KV rows, found by prefix."""
