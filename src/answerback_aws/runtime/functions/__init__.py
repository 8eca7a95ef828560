"""The Lambda functions: each module's `handler` takes an event, hands it to the service, and answers in AWS's words."""
