"""Pretraining of the grid model: where its pairs come from, and how they are put before it."""
