"""Measurements, each against something in the same run; never part of the tests."""
