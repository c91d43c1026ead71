"""The only package that imports ray: map a stage over chunks, train, and say which cluster is used."""

import os

# Ray starts a cluster of its own at the first call without one. A thread that goes on for a moment after a Ctrl-C
# disconnected it must fail instead. Ray reads this when it is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
