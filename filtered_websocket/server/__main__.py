"""``python -m filtered_websocket.server``."""

import sys

from .cli import main

sys.exit(main())
