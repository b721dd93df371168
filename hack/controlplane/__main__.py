"""`python -m controlplane NAME...` prints the path of each program, found or built."""

import sys

from controlplane import programs

try:
    print(*programs.find(*sys.argv[1:]).values(), sep="\n")
except (programs.UnavailableError, KeyError) as error:
    sys.exit(str(error))
