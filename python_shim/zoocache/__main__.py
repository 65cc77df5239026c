"""python -m zoocache"""

from zoocache.cli import main

main()
