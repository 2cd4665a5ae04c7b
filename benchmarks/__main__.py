"""`python -m benchmarks` measures all speeds, one command after the other; each goes on where it stopped."""

import sys

from benchmarks import attacks, growth, training

if __name__ == "__main__":
    sys.exit(max([command.main([]) for command in (attacks, training, growth)]))
