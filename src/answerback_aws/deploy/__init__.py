"""Deploying the stack and looking after it, by CloudFormation; `answerback aws` is its command line."""
