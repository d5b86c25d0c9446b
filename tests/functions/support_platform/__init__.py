"""Tests of the support-platform contract."""
