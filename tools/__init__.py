"""The commands, and below them what they share.

Environment variables that torch and albumentations read when they are imported are set here; a value that the user
has set stays.
"""

import os
import time

STARTED = time.perf_counter()
"""When the process began."""

# Idle OpenMP threads that spin make a busy two-core machine several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# albumentations would ask the network for its newest version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
