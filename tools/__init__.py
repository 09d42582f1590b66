"""What a person runs. Sets, before torch is imported, what must be set by then; a value the user set wins."""

import os

# Idle OpenMP threads that spin make a busy two-core machine several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# albumentations would ask the network for its newest version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
