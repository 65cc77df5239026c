"""What the processes that share a Redis do, in a terminal: ``zoocache dashboard`` (pip install zoocache[cli])."""
