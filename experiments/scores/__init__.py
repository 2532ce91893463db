"""Scores of condensed sets: many accuracies of each, under the same evaluations."""
