"""The AWS deployment on this machine: the emulator, a PostgreSQL and a model behind Bedrock's interface."""
