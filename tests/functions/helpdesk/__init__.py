"""Tests of the helpdesk contract over HTTP."""
