"""The command line `sdlm`: a file for each group of commands."""
