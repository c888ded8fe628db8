"""Becomes the program beside this file: its process, its signals and its exit code are the program's own from then on."""

import os
import signal
import sys


def main():
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clipserve")
    # Python ignores these two, which would go on behind `execv`.
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execv(program, ["clipserve", *sys.argv[1:]])
    except OSError as error:
        sys.exit("clipserve: {} cannot be run: {}; install the wheel for this system anew".format(program, error.strerror))


if __name__ == "__main__":
    main()
