"""``python -m lora_advise`` is ``lora-advise``."""

import sys

from lora_advise.cli import main

if __name__ == "__main__":
    sys.exit(main())
