"""Demonstrations: bags, resampling, episodes, statistics, and the formats of other tools."""
