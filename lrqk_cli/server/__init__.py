"""A server of one model in the OpenAI protocol."""
