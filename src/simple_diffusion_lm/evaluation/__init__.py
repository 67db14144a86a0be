"""How good a model is: likelihood, n-gram judge, figures of samples, comparisons, reports."""
