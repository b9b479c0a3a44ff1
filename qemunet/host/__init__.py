"""The only part that touches the machine: links, taps, files and processes, each step done or refused."""
