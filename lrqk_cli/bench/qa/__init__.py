"""Questions about documents that people wrote, answered freely and scored by published metrics."""
