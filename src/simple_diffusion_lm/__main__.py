"""python -m simple_diffusion_lm: the `sdlm` command line."""

from .cli import main

main()
