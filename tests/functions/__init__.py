"""Tests of the contracts, as their clients see them."""
