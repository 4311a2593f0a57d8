"""Scales and minima with which groups of weights lose least when they become codes."""
