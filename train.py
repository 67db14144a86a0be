"""The original command line: python train.py -d=TXT_CORPUS -spm=SPM_MODEL -ckpt=CHECKPOINTING_PATH

Its flags mean what they meant; the checkpointing path is now a run directory. Everything else is
`sdlm train --recipe original`.
"""

from simple_diffusion_lm.cli.exits import exit_cleanly
from simple_diffusion_lm.cli.original import train

exit_cleanly(train)
