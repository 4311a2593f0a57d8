"""What a decode step fetches, and into which slots."""

from lrqk_cli.kernels.plan_fetches.reference import plan_fetches as plan_fetches
