"""The only package that imports Ray: maps a stage over chunks, runs trainings, connects to the cluster."""

import os

# By default, the first Ray call without a connection starts a new cluster. A thread that is still running after Ctrl-C
# has disconnected Ray must fail instead. Ray reads this variable when it is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
