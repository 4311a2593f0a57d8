"""Two attentions of the same queries over disjoint rows become one."""
