"""A trained model in the browser and over HTTP."""
