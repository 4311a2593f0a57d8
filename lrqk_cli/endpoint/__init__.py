"""A client of servers that speak the OpenAI protocol; it knows nothing of conversations."""
