"""`python -m answerback` is the `answerback` command."""

from answerback.cli.entry import main

if __name__ == "__main__":
    main()
