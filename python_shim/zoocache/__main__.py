"""python -m zoocache"""

from zoocache.cli import main

if __name__ == "__main__":
    main()
