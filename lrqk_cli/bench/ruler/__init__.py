"""The 13 tasks of RULER ("What's the Real Context Size of Your Long-Context Language Models?", COLM 2024).

The tasks follow the published definitions: what is hidden, how often, among what, and how answers are scored.
The wording of the prompts, the word lists and the noise are our own. So scores can be compared between modes,
which all see the same prompts, but not to the last point with published ones.
"""
