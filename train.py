"""The original command line: python train.py -d=TXT_CORPUS -spm=SPM_MODEL -ckpt=CHECKPOINTING_PATH

Its flags mean what they meant; the checkpointing path is now a run directory. Everything else is
`sdlm train --recipe original`.
"""

from simple_diffusion_lm.original_cli import main

main()
