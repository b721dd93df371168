"""Prices, what a request costs, and when a GPU pays. Pure, in integer micro-dollars."""
