"""The same product on AWS: adapters, functions, deployment, and the emulator that runs it all on this machine."""
