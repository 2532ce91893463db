"""Scores of condensed sets: many accuracies of each, under the same evaluations."""

# Kinds of measures, which `--measures` names.
KINDS = ("paper", "strong", "plain", "hard", "pixels", "networks")
