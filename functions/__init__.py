"""The contracts: one folder each, a thin app in the contract's own words."""
