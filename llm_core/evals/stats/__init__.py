"""Statistics of paired scores: which model is better, by how much, and what a night's test could have seen."""
