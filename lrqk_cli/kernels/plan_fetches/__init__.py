"""Plan the rows that a plain decode step fetches, and their slots."""

from lrqk_cli.kernels.plan_fetches.reference import plan_fetches as plan_fetches
