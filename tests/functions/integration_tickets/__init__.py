"""Tests of the integration-tickets contract."""
