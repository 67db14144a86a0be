"""python -m simple_diffusion_lm: the `sdlm` command line."""

from .cli.main import main

main()
