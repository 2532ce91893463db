"""Figure 4 of the paper: a network learns tasks one after another."""
