"""The lookup suite: what drafts by lookup gain where an answer copies, and cost where it does not."""
