"""Several processes that train, measure or generate together."""
