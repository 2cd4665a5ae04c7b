"""Speed against the peers; each module is one command and measures its rivals in turns, in one run."""
